"""What stands in a tokenizer.json, and the edits that it gets before the `tokenizers` library reads it.

{"added_tokens": [{"id": 0, "content": "<s>", "special": true, ...}, ...], "normalizer": ..., "pre_tokenizer": ...,
 "post_processor": ..., "decoder": ..., "model": {"type": "BPE", "vocab": {"a": 1, ...}, "merges": ["a b", ...]}}
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxrl_llm.data.tokenizers.base import Settings, Tokenizer
from jaxrl_llm.errors import UserError

DECODERS = "ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse and Strip"
SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
BYTE = re.compile("<0x([0-9A-F]{2})>")


def _byte_letters() -> str:
    """The letter that stands for each byte in byte-level BPE: itself where it can be seen, else the next free one."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in seen else next(others)) for byte in range(256))


BYTE_LETTERS = _byte_letters()
LETTER_BYTES = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


@contextlib.contextmanager
def corrupt_where_it_fails(origin: str) -> Iterator[None]:
    """Reading a file whose parts are not what they should be may fail in any way: each is a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises no narrower one
        raise UserError(
            f"{origin}: not a tokenizer.json, or a corrupt one: {error!r:.300}\n"
            "  mend: get the file again; one that transformers writes will do"
        ) from error


def parse(content: bytes) -> dict[str, Any]:
    """The file's object.  Raises whatever comes where it is not one."""
    parsed = json.loads(content)
    parsed["added_tokens"] = parsed.get("added_tokens") or []
    return parsed


def token_ids(parsed: dict[str, Any]) -> dict[str, int]:
    """All tokens by spelling, added ones among them."""
    vocab = parsed["model"]["vocab"]
    words = vocab if isinstance(vocab, dict) else {word: id for id, (word, _) in enumerate(vocab)}
    return words | {token["content"]: token["id"] for token in parsed["added_tokens"]}


def added_tokens(parsed: dict[str, Any], said: Settings, ids: dict[str, int], origin: str) -> list[dict[str, Any]]:
    """The added tokens of the file and of what is said beside it, in order of their ids.

    Raises:
        UserError: one is said to have an id that is another's.
    """
    tokens = {token["content"]: dict(token) for token in parsed["added_tokens"]}
    for token in said.added:
        if ids.get(token.text, token.id) != token.id:
            raise UserError(
                f"{origin}: {token.text!r} has the id {ids[token.text]}, and {token.id} in tokenizer_config.json\n"
                "  mend: correct added_tokens_decoder there"
            )
        tokens.setdefault(token.text, {"id": token.id, "content": token.text, **SPECIAL})["special"] = token.special
    named = {said.bos_token, said.eos_token, said.pad_token, *said.special}
    main = {said.bos_id if said.bos_token is None else None, *(said.eos_ids[:1] if said.eos_token is None else ())}
    for text, id in (ids | {token.text: token.id for token in said.added}).items():
        if text in named or id in main:
            tokens.setdefault(text, {"id": id, "content": text, **SPECIAL})["special"] = True
    return sorted(tokens.values(), key=lambda token: token["id"])


def rename(parsed: dict[str, Any], tokens: list[dict[str, Any]], names: Mapping[str, str]) -> None:
    """Spell tokens in another way, and leave out all that adds, cuts, pads or draws by chance."""
    model, vocab = parsed["model"], parsed["model"]["vocab"]
    parsed |= {"truncation": None, "padding": None, "post_processor": None}
    parsed["added_tokens"] = [{**token, "content": names.get(token["content"], token["content"])} for token in tokens]
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(word, word), score] for word, score in vocab]
    else:
        model["vocab"] = {names.get(word, word): id for word, id in vocab.items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "dropout" in model:
        model["dropout"] = None
    if "merges" in model and not vocab.keys().isdisjoint(names):
        model["merges"] = [merge for merge in model["merges"] if names.keys().isdisjoint(_words_of(merge))]


def _words_of(merge: str | list[str]) -> tuple[str, str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right, left + right


def drop_space(parsed: dict[str, Any]) -> None:
    """Leave out whatever puts a space before a text."""
    for part in _parts(parsed.get("pre_tokenizer"), "pretokenizers"):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        if "add_prefix_space" in part:
            part["add_prefix_space"] = False
    normalizers = [part for part in _parts(parsed.get("normalizer"), "normalizers") if part["type"] != "Prepend"]
    parsed["normalizer"] = {"type": "Sequence", "normalizers": normalizers}


def first_special(parsed: dict[str, Any]) -> str | None:
    """The special token that the file puts before every text."""
    for part in _parts(parsed.get("post_processor"), "processors"):
        if part["type"] == "TemplateProcessing" and "SpecialToken" in part["single"][0]:
            return part["single"][0]["SpecialToken"]["id"]
    return None


def piece_reader(parsed: dict[str, Any], origin: str) -> Callable[[str], bytes]:
    """The function from a token's spelling to the bytes that it adds to a text, wherever it stands.

    Raises:
        UserError: the decoder is of a kind for which there is none.
    """
    parts = list(_parts(parsed.get("decoder"), "decoders"))
    kinds = {part["type"] for part in parts}
    if kinds == {"ByteLevel"}:
        return _from_letters
    replaced = {}
    for part in parts:
        if part["type"] == "Replace" and "String" in part["pattern"]:
            replaced[part["pattern"]["String"]] = part["content"]
        elif part["type"] == "Metaspace":
            replaced[part["replacement"]] = " "
        elif part["type"] not in ("ByteFallback", "Fuse", "Strip"):
            replaced.clear()
            break
    if not replaced:
        raise UserError(f"{origin}: cannot read a decoder of {', '.join(sorted(kinds)) or 'no kind'}, only {DECODERS}")

    def read(token: str) -> bytes:
        if "ByteFallback" in kinds and (byte := BYTE.fullmatch(token)):
            return bytes((int(byte[1], 16),))
        for old, new in replaced.items():
            token = token.replace(old, new)
        return token.encode()

    return read


def _from_letters(token: str) -> bytes:
    try:
        return bytes(LETTER_BYTES[letter] for letter in token)
    except KeyError:
        return token.encode()


def _parts(component: dict[str, Any] | None, name: str) -> Iterator[dict[str, Any]]:
    """A component, or each of a Sequence."""
    if component is not None and component["type"] == "Sequence":
        for part in component[name]:
            yield from _parts(part, name)
    elif component is not None:
        yield component


def added(specials: Mapping[str, int]) -> list[dict[str, Any]]:
    """Special tokens as a tokenizer.json lists them."""
    return [{"id": id, "content": text, **SPECIAL} for text, id in sorted(specials.items(), key=lambda item: item[1])]


def bos_first(token: str, id: int) -> dict[str, Any]:
    """The post_processor that puts BOS before a text."""
    bos, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    known = {token: {"id": token, "ids": [id], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, text], "special_tokens": known}


def config_file(tokenizer: Tokenizer, of_class: str, **more: Any) -> bytes:
    """A tokenizer_config.json with the special tokens of a tokenizer that came without one."""
    spelling = {id: text for text, id in tokenizer.specials.items()}
    tokens = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    if tokenizer.pad_id in spelling:
        tokens["pad_token"] = spelling[tokenizer.pad_id]
    out = {"tokenizer_class": of_class, "add_bos_token": tokenizer.adds_bos, **tokens, **more}
    return json.dumps({key: value for key, value in out.items() if value is not None}, indent=2).encode()
