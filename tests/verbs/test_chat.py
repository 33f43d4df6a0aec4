"""`chat --best-of`: several answers from one prefill, of which the best is said; streaming chat is in tests/e2e."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.data.tokenizers import BytesTokenizer
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.sampler import Sampler, Stats
from tests.test_scorers import scorer
from tests.tiny import Runs

Talk = Callable[..., str]


@pytest.fixture
def talk(runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    def run(lines: Sequence[str], *words: object, code: int = 0) -> str:
        said: Iterator[str] = iter(lines)
        monkeypatch.setattr("builtins.input", lambda _: next(said, None) or (_ for _ in ()).throw(EOFError()))
        assert main(["chat", str(runs("sft")), "--max-new-tokens", "6", *map(str, words)]) == code
        found = capsys.readouterr()
        return found.err if code else found.out

    return run


def test_the_best_of_several_is_said(runs: Runs, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[list[str]] = []
    asked: list[str] = []
    seen: list[Stats] = []
    sample = Sampler.__call__

    def spy(self: Sampler, params: Any, prompts: Any, **more: Any) -> Any:
        asked.append(bytes(id for id in prompts[0] if id < 256).decode())
        if len(asked) == 2:
            more["watch"] = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        found, stats = sample(self, params, prompts, **more)
        texts.append([BytesTokenizer().decode(each.tokens).strip() for each in found[0]])
        seen.append(stats)
        return found, stats

    monkeypatch.setattr(Sampler, "__call__", spy)
    out = talk(["ash", "cod", "dew"], "--best-of", 8, "--reward", runs("reward"), "--temperature", 1.5)
    assert (seen[0].prefills, seen[0].slots, seen[0].completions) == (1, 8, 8)
    assert len({*texts[0]}) > 4
    prompt = Prompt((), ({"role": "user", "content": "ash"},), "a")
    scores = scorer(runs("reward"))([prompt] * 8, texts[0])
    best = int(scores.argmax())
    said = f"{texts[0][best]}\n(scored {scores[best]:.3f}; the 8 from {scores.min():.3f} to {scores.max():.3f})"
    assert said in out
    assert "(stopped; nothing was said)" in out
    assert "ash" in asked[2]
    assert texts[0][best] in asked[2]
    assert "cod" not in asked[2]  # a turn that was stopped is no part of the dialogue


def test_what_is_refused(runs: Runs, talk: Talk) -> None:
    assert "mend: --reward MODEL" in talk([], "--best-of", 4, code=2)
    assert "mend: --best-of 8" in talk([], "--reward", runs("reward"), code=2)
    judge = ("--reward", runs("sft"), "--best-of")
    assert "--best-of must be at least 2" in talk([], *judge, 1, code=2)
    assert "at --temperature 0 all are alike" in talk([], *judge, 2, "--temperature", 0, code=2)
    assert "and a reward model is wanted" in talk([], *judge, 2, code=2)
