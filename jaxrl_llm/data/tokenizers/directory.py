"""Tokenizers in Hugging Face directories: read, carried along, and written back byte for byte."""

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrl_llm.data.tokenizers.base import AddedToken, Settings, Tokenizer
from jaxrl_llm.data.tokenizers.json_tokenizer import JsonTokenizer
from jaxrl_llm.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from jaxrl_llm.errors import StorageFailed, UserError

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
FILES = (
    *("tokenizer.json", "tokenizer.model", CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *(TEMPLATE, "chat_template.json", "generation_config.json"),
)
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
GZIP = b"\x1f\x8b"


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory: tokenizer.json or tokenizer.model, and what the files beside it say.

    Raises:
        UserError: there is none, or a file is corrupt or contradicts another.
    """
    files = {name: content for name in FILES if (content := _read(directory / name)) is not None}
    if "tokenizer.json" not in files and (packed := _read(directory / "tokenizer.json.gz")) is not None:
        files["tokenizer.json"] = packed
    return read_files(files, _object(_read(directory / "config.json") or b"{}", directory / "config.json"), directory)


def read_files(files: Mapping[str, bytes], config: Mapping[str, Any], origin: Path) -> Tokenizer:
    """`load_tokenizer` of files by name and config.json's object; a tokenizer.json may be gzipped."""
    if files.get("tokenizer.json", b"").startswith(GZIP):
        files = {**files, "tokenizer.json": _unzip(files["tokenizer.json"], origin / "tokenizer.json")}
    settings = _settings(files, config, origin)
    if "tokenizer.json" in files:
        return JsonTokenizer(files["tokenizer.json"], str(origin / "tokenizer.json"), settings)
    if "tokenizer.model" in files:
        return SentencePieceTokenizer(files["tokenizer.model"], str(origin / "tokenizer.model"), settings)
    raise UserError(
        f"{origin}: there is no tokenizer in it (tokenizer.json or tokenizer.model)\n"
        "  mend: copy the tokenizer's files there; `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of "
        "transformers makes a tokenizer.json of other kinds"
    )


def from_packed(packed: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of what `Settings.to_json` made."""
    try:
        files = {name: zlib.decompress(base64.b64decode(content)) for name, content in packed["files"].items()}
    except (zlib.error, binascii.Error) as error:
        raise UserError(f"the saved tokenizer is corrupt: {error}\n  mend: use another checkpoint") from error
    return read_files(files, packed["ids"], Path("the saved tokenizer"))


def save_tokenizer(tokenizer: Tokenizer, directory: Path, chat_template: str | None = None) -> None:
    """Write the files that `load_tokenizer` and transformers read; those that were read once, byte for byte.

    Args:
        tokenizer: of any kind.
        directory: made where it is missing.
        chat_template: Jinja text that takes the place of the tokenizer's own.

    Raises:
        StorageFailed: a file cannot be written.
    """
    files = tokenizer.files()
    objects = {name: _object(files.get(name, b"{}"), directory / name) for name in (CONFIG, "chat_template.json")}
    if chat_template is not None and chat_template != _chat_template(files, objects):
        files[TEMPLATE] = chat_template.encode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)
    except OSError as error:
        raise StorageFailed(f"{directory}: the tokenizer cannot be written: {error.strerror}") from error


def _settings(files: Mapping[str, bytes], config: Mapping[str, Any], origin: Path) -> Settings:
    objects = {name: _object(files.get(name, b"{}"), origin / name) for name in FILES[2:] if name != TEMPLATE}
    said = objects["special_tokens_map.json"] | objects[CONFIG]
    ids = {name: _ids(name, config, origin / "config.json") for name in IDS}
    generation = {
        name: _ids(name, objects["generation_config.json"], origin / "generation_config.json") for name in IDS
    }
    extra = [*_list(said, "additional_special_tokens"), *_list(said, "extra_special_tokens")]
    bos, pad = ((*generation[name], *ids[name], None)[0] for name in ("bos_token_id", "pad_token_id"))
    return Settings(
        bos_token=_text(said.get("bos_token")),
        eos_token=_text(said.get("eos_token")),
        pad_token=_text(said.get("pad_token")),
        bos_id=bos,
        eos_ids=tuple(dict.fromkeys((*generation["eos_token_id"], *ids["eos_token_id"]))),
        pad_id=pad,
        added=_added(objects, origin),
        special=frozenset(text for text in (*map(_text, extra), _text(said.get("unk_token"))) if text),
        adds_bos=said.get("add_bos_token"),
        space_after_special=said.get("legacy") is not False,
        chat_template=_chat_template(files, objects),
        files=files,
        ids={name: config[name] for name in IDS if config.get(name) is not None},
    )


def _added(objects: Mapping[str, dict[str, Any]], origin: Path) -> tuple[AddedToken, ...]:
    """Tokens of added_tokens.json ({text: id}) and of added_tokens_decoder ({id: {content, special}})."""
    try:
        added = {text: AddedToken(int(id), text, True) for text, id in objects["added_tokens.json"].items()}
        for id, token in objects[CONFIG].get("added_tokens_decoder", {}).items():
            added[token["content"]] = AddedToken(int(id), token["content"], bool(token.get("special", False)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{origin}: cannot read the added tokens: {error!r}\n"
            "  mend: correct added_tokens_decoder in tokenizer_config.json, or added_tokens.json"
        ) from error
    return tuple(added.values())


def _chat_template(files: Mapping[str, bytes], objects: Mapping[str, dict[str, Any]]) -> str | None:
    """The template's file, else the text in a JSON file, else the one of a list that is named "default"."""
    if TEMPLATE in files:
        return files[TEMPLATE].decode(errors="replace")
    found = objects[CONFIG].get("chat_template") or objects["chat_template.json"].get("chat_template")
    if isinstance(found, list):
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
    if isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) else None


def _ids(name: str, said: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """One id, a list of them, or none; -1 is none as well."""
    found = said.get(name)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(id) is int for id in ids):
        raise UserError(f"{path}: {name} is {found!r}, and must be an id or a list of ids")
    return tuple(id for id in ids if id != -1)


def _text(token: Any) -> str | None:
    """A token's spelling, which may stand in an object with flags."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _list(said: Mapping[str, Any], name: str) -> list[Any]:
    found = said.get(name) or []
    return list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []


def _object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}\n  mend: get the file again") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{path}: holds {type(parsed).__name__}, not an object\n  mend: get the file again")
    return parsed


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _unzip(content: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked: {error}\n  mend: get the file again") from error
