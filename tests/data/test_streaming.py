"""Streaming detokenisation: whole characters only, nothing twice, and together exactly what decode gives."""

import json
import random
import time
from pathlib import Path

import pytest

from jaxrl_llm.data.streaming import Detokenizer
from jaxrl_llm.data.tokenizers import BytesTokenizer, Tokenizer, load_tokenizer
from jaxrl_llm.tasks import corpus
from tests.golden.chat_cases import KINDS, TEXTS

NAMES = ["plain bytes", "sentencepiece", *KINDS]


def stream(tokenizer: Tokenizer, ids: list[int], continued: bool = False) -> list[str]:
    text = Detokenizer(tokenizer, continued)
    return [*(text.push(id) for id in ids), text.flush()]


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_random_ids_give_what_decode_gives(name: str, continued: bool, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer, rng = tokenizers[name], random.Random(0)
    for _ in range(1000):
        ids = rng.choices(range(-1, tokenizer.vocab_size + 2), k=rng.randrange(12))
        assert "".join(stream(tokenizer, ids, continued)) == tokenizer.decode(ids, continued)


@pytest.mark.parametrize("name", NAMES)
def test_text_comes_in_whole_characters(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[name]
    for text in [*TEXTS, " a", "é" * 50, "👩‍👩‍👧" * 3, *corpus(5, seed=1)]:
        ids = tokenizer.encode(text)
        pieces = stream(tokenizer, ids)
        assert "\ufffd" not in "".join(pieces)
        assert pieces[-1] == ""  # nothing was held back
        assert "".join(pieces) == tokenizer.decode(ids)


def test_a_character_comes_with_its_last_byte() -> None:
    assert stream(BytesTokenizer(), list("aé🎉".encode())) == ["a", "", "é", "", "", "", "🎉", ""]
    assert stream(BytesTokenizer(), [0xC3]) == ["", "\ufffd"]
    assert stream(BytesTokenizer(), [0xF0, 0x9F, 97]) == ["", "", "\ufffda", ""]


def test_the_space_before_a_text_is_dropped_once(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["first"]
    ids = [tokenizer.bos_id, *tokenizer.encode("the cat")]
    assert "".join(stream(tokenizer, ids)) == "the cat"
    assert "".join(stream(tokenizer, ids, continued=True)) == " the cat"


def test_a_published_vocabulary(shared_data: Path) -> None:
    for folder in ("tokenizers/mistral_v1", "tokenizers/deepseek_r1"):
        tokenizer, rng = load_tokenizer(shared_data / folder), random.Random(0)
        text = (shared_data / "text" / "peps.jsonl.gz").read_bytes()[:3000].decode("latin1")
        for ids in (tokenizer.encode(text), rng.choices(range(tokenizer.vocab_size), k=3000)):
            assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)
        questions = json.loads((shared_data / "sft" / "sharegpt_zh.jsonl").read_text(encoding="utf-8").split("\n")[0])
        chinese = questions["conversations"][0]["value"]
        assert "".join(stream(tokenizer, tokenizer.encode(chinese))) == chinese


def test_a_token_costs_the_same_wherever_it_stands() -> None:
    def seconds(n: int) -> float:
        text, begin = Detokenizer(BytesTokenizer()), time.perf_counter()
        for i in range(n):
            text.push(0x80 + i % 64)  # never a character
        return time.perf_counter() - begin

    seconds(1000)
    assert seconds(50_000) < 100 * max(seconds(2000), 1e-3)
