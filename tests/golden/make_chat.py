"""Writes chat.json with transformers: `python -m tests.golden.make_chat` (needs it, protobuf, and ../shared/data).

encodings  ids of TEXTS by the tokenizers of real models, as AutoTokenizer makes them
chats      by template, conversation and tokenizer: the text, the ids, the assistant's tokens; or the template's refusal
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from tests.golden.chat_cases import CONVERSATIONS, KINDS, TEMPLATES, TEXTS, tokenizer_files

SHARED = Path(__file__).parent.parent.parent.parent / "shared" / "data"
REAL = {"stories260k": SHARED / "stories260k", "gpt2": SHARED / "tokenizers" / "gpt2"}


def load(files: Path | dict[str, str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(files, Path):
            shutil.copytree(files, folder, dirs_exist_ok=True)
        else:
            for name, content in files.items():
                (Path(folder) / name).write_text(content, encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder)


def chat(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    prompt = messages[-1]["role"] == "user"
    common = {"chat_template": template, "add_generation_prompt": prompt}
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **common)
    except TemplateError as error:
        return {"refused": str(error)}
    blocks = "endgeneration" in template and not prompt
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=blocks, **common)
    return {"text": text, "ids": out["input_ids"], **({"mask": out["assistant_masks"]} if blocks else {})}


def main() -> None:
    encodings = {}
    for name, path in REAL.items():
        tokenizer = load(path)
        encodings[name] = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    chats = {
        f"{kind} {name} {case}": chat(load(tokenizer_files(kind)), template, messages)
        for kind in KINDS
        for name, template in TEMPLATES.items()
        for case, messages in CONVERSATIONS.items()
    }
    out = {"encodings": encodings, "chats": chats}
    (Path(__file__).parent / "chat.json").write_text(json.dumps(out, ensure_ascii=False, indent=0), encoding="utf-8")


if __name__ == "__main__":
    main()
