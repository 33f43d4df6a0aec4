"""RewardBench by its published figures, by hand, and from files, good and bad."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.preference import wilson
from jaxrl_llm.evals.rewardbench import (
    QUESTIONS,
    VERSION_1,
    VERSION_2,
    Question,
    credit,
    first,
    results,
    section_figures,
    ties_score,
)
from jaxrl_llm.evals.rewardbench_files import LLMBAR, read_questions

TANH = math.tanh
V2 = [  # (row, scores); g, s: see the assertions
    ({"id": "1", "subset": "Factuality", "chosen": ["a"], "rejected": ["b", "c", "d"]}, [3, 1, 2, 0]),
    ({"id": "2", "subset": "Factuality", "chosen": ["a"], "rejected": ["b", "c", "d"]}, [2, 2, 2, 0]),
    ({"id": "3", "subset": "Factuality", "chosen": ["a"], "rejected": ["b", "c", "d"]}, [1, 2, 2, 0]),
    ({"id": "4", "subset": "Math", "chosen": ["a"], "rejected": ["b", "c", "d"]}, [0, 0, 0, 0]),
    ({"id": "ref:1", "subset": "Ties", "chosen": ["a"], "rejected": ["b", "c"]}, [5, 3, 1]),
    ({"id": "tied:1", "subset": "Ties", "chosen": ["a", "b", "c"], "rejected": ["d", "e"]}, [6, 7, 6.5, 2, 3]),
    ({"id": "ref:2", "subset": "Ties", "chosen": ["a"], "rejected": ["b", "c"]}, [1, 2, 0]),
    ({"id": "tied:2", "subset": "Ties", "chosen": ["a", "b"], "rejected": ["c"]}, [4, 2, 1.5]),
    ({"id": "ref:3", "subset": "Ties", "chosen": ["a"], "rejected": ["b"]}, [2, 2]),
    ({"id": "tied:3", "subset": "Ties", "chosen": ["a", "b"], "rejected": ["c"]}, [1, 1, 0]),
    ({"id": "ref:4", "subset": "Ties", "chosen": ["a"], "rejected": ["b"]}, [2, 0]),
    ({"id": "tied:4", "subset": "ties", "chosen": ["a", "b"], "rejected": ["c"]}, [1, 1, 0]),
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refused(*paths: str) -> str:
    with pytest.raises(UserError) as caught:
        read_questions(paths)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "sections", "mean"),
    [
        ("Better-PairRM.metrics", {"Chat": 95.53, "Chat Hard": 39.25, "Safety": 82.03, "Reasoning": 49.83}, 66.66),
        ("GPM-Gemma-2-9B", {"Chat": 93.58, "Chat Hard": 87.72, "Safety": 92.30, "Reasoning": 95.71}, 92.33),
    ],
)
def test_published_subsets_give_the_published_sections(
    model: str, sections: dict[str, float], mean: float, shared_data: Path
) -> None:
    published = json.loads((shared_data / "rewardbench" / f"published_{model}.json").read_text())
    questions: list[Question] = []
    for section in VERSION_1.values():
        for subset, weight in section.items():
            n = QUESTIONS.get(subset, weight)
            right = round(published[subset] * n)
            assert right / n == pytest.approx(published[subset])  # or we have another number of questions than they
            questions += [Question(1, (), ((), ()), 1, subset, str(i < right), "") for i in range(n)]
    assert len(questions) == 2985
    found = results(questions, [np.float32([question.id == "True", 0.5]) for question in questions])
    assert {name: round(100 * each["accuracy"], 2) for name, each in found["sections"].items()} == sections
    assert round(100 * found["overall"]["accuracy"], 2) == mean
    assert found["overall"]["questions"] == 2985
    assert found["overall"]["missing"] == []
    assert found["subsets"]["math-prm"]["of"] == 447
    low, high = found["overall"]["interval"]
    assert 0.005 < found["overall"]["accuracy"] - low < 0.025
    assert 0.005 < high - found["overall"]["accuracy"] < 0.025


def test_a_tie_counts_as_wrong_in_version_1_and_is_told() -> None:
    asked = [Question(1, (), ((), ()), 1, "llmbar-natural", str(i), str(i)) for i in range(4)]
    found = results(asked, [np.float32(s) for s in ([1, 0], [0, 0], [0, 1], [2, 1])])
    only = found["subsets"]["llmbar-natural"]
    assert (only["accuracy"], only["ties"], only["questions"], only["of"]) == (0.5, 1, 4, 100)
    assert only["interval"] == wilson(0.5, 4)
    assert found["sections"]["Chat Hard"]["missing"][0] == "mt-bench-hard"
    assert found["overall"]["missing"] == ["Chat", "Safety", "Reasoning"]


def test_own_subsets_stand_beside_the_suite() -> None:
    figures = {
        "hh": {"accuracy": 0.5, "interval": (0.4, 0.6), "questions": 30, "ties": 0},
        "mine": {"accuracy": 1.0, "interval": (0.9, 1.0), "questions": 10, "ties": 1},
    }
    assert section_figures(1, figures)["other"]["accuracy"] == pytest.approx(0.625)
    asked = [Question(1, (), ((), ()), 1, "mine", "1", "1")]
    assert results(asked, [np.float32([1, 0])])["overall"] is None


def test_version_2_end_to_end_by_hand(tmp_path: Path) -> None:
    rows = []
    for row, _ in V2:
        n = len(row["chosen"])
        counts = {"num_correct": n, "total_completions": n + len(row["rejected"])}
        rows.append({**row, **counts, "prompt": "Name a poet."})
    questions = read_questions([write(tmp_path / "v2.jsonl", rows)])
    scores = [np.float32(s) for _, s in V2]
    found = results(questions, scores)
    assert found["version"] == 2
    assert found["subsets"]["Factuality"]["accuracy"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found["subsets"]["Math"]["accuracy"] == pytest.approx(1 / 4)
    # by number:  g_tied 3, .5, 1, 1   g_ref 2, -1, 0, 2   spread 1, 2, 0, 0
    ties = found["subsets"]["Ties"]
    assert ties["parts"] == pytest.approx(
        {
            "tied": 1.0,
            "ref": 2 / 4,
            "tied above spread": 3 / 4,
            "both above spread": 2 / 4,  # 2 > 1, not -1 > 2, not 0 > 0, 1 > 0
            "closeness": (TANH(2 / 1 - 1) + TANH(-1 / 2 - 1) + 0 + 1) / 4,
        }
    )
    assert ties["accuracy"] == pytest.approx(
        0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.75 + 0.2 * 0.5 + 0.01 * (TANH(1) + TANH(-1.5) + 1) / 4
    )
    assert (ties["ties"], ties["unpaired"], ties["questions"]) == (1, 0, 8)
    sections = found["sections"]
    assert list(sections) == ["Factuality", "Math", "Ties"]
    assert found["overall"]["accuracy"] == pytest.approx((4 / 9 + 1 / 4 + ties["accuracy"]) / 3)
    assert found["overall"]["missing"] == ["Precise IF", "Safety", "Focus"]
    assert len(VERSION_2) == 6


def test_ties_without_partners() -> None:
    def asked(id: str, n_right: int) -> Question:
        return Question(2, (), ((),) * 3, n_right, "Ties", id, id)

    def score(*given: tuple[str, int, list[float]]) -> dict[str, Any]:
        return ties_score([asked(id, n) for id, n, _ in given], [np.float32(s) for _, _, s in given])

    lone = score(("ref:1", 1, [1, 0, 0]), ("tied:1", 2, [2, 2, 0]), ("ref:2", 1, [0, 1, 1]))
    assert lone["unpaired"] == 1
    assert lone["parts"]["ref"] == 0.5
    assert lone["parts"]["both above spread"] == 1
    apart = score(("ref:1", 1, [1, 0, 0]), ("tied:2", 2, [2, 2, 3]))
    assert apart["parts"] == {"tied": 0, "ref": 1}
    assert apart["accuracy"] == pytest.approx(0.5)
    assert score(("tied:2", 2, [2, 2, 1]))["accuracy"] == pytest.approx(1)


def test_limit_takes_of_each_subset_and_keeps_ties_together() -> None:
    ids = [("Math", "1"), ("Ties", "ref:1"), ("Ties", "ref:2"), ("Math", "2"), ("Ties", "tied:1"), ("Ties", "tied:2")]
    asked = [Question(2, (), (), 1, subset, id, f"{subset}{id}") for subset, id in ids]
    assert [question.id for question in first(asked, 1)] == ["1", "ref:1", "tied:1"]


def test_llmbar_files_are_five_subsets(shared_data: Path) -> None:
    questions = read_questions([str(shared_data / "rewardbench" / "llmbar*.json")])
    counts = {subset: sum(question.subset == subset for question in questions) for subset in LLMBAR.values()}
    assert counts == {name: n for name, n in VERSION_1["Chat Hard"].items() if name.startswith("llmbar")}
    raw = json.loads((shared_data / "rewardbench" / "llmbar_natural.json").read_text())
    natural = [question for question in questions if question.subset == "llmbar-natural"]
    for row, question in zip(raw, natural, strict=True):
        assert question.prompt[0]["content"] == row["input"]
        assert [answer[0]["content"] for answer in question.answers] == [
            row[f"output_{row['label']}"],
            row[f"output_{3 - row['label']}"],
        ]


def test_forms_of_a_row_say_the_same(tmp_path: Path) -> None:
    user, good, bad = ({"role": role, "content": c} for role, c in (("user", "Who?"), *[("assistant", "G")] * 2))
    plain = {"prompt": "Who?", "chosen": "G", "rejected": "G", "subset": "hep-RUST", "id": 7, "chosen_model": "x"}
    rows = [plain, {**plain, "chosen": ["G"], "rejected": ["G"]}]
    rows.append({**plain, "prompt": [user], "chosen": [good], "rejected": [bad]})
    lines = write(tmp_path / "rows.jsonl", rows)
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(rows).encode()))
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([plain]), tmp_path / "rows.parquet")
    found = read_questions([lines, str(packed), str(tmp_path / "rows.parquet")])
    assert len({(q.prompt[0]["content"], q.answers[0][0]["content"], q.subset, q.id, q.n_right) for q in found}) == 1
    assert len(found) == 7
    assert found[0].subset == "hep-rust"
    assert read_questions(
        [write(tmp_path / "mine.x.jsonl", [{k: plain[k] for k in ("prompt", "chosen", "rejected")}])]
    )[0].subset == ("mine")


BAD = [
    ({"prompt": "a", "chosen": "b"}, "expected the columns prompt, chosen, rejected"),
    ({"prompt": "", "chosen": "b", "rejected": "c"}, "prompt: expected a text or messages, and found ''"),
    ({"prompt": "a", "chosen": 3, "rejected": "c"}, "chosen: expected a text or messages, and found 3"),
    ({"prompt": "a", "chosen": "b", "rejected": ["c", "d"]}, "expected one answer each in chosen and rejected"),
    (
        {"prompt": "a", "chosen": "b", "rejected": [{"role": "user", "content": "c"}]},
        "expected after the prompt an answer",
    ),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "num_correct": 2}, "num_correct is 2, but chosen and rejected"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "num_correct": 1, "subset": "Ties", "id": "7"}, '"ref:NUMBER"'),
    ({"prompt": "a", "chosen": ["b", "c"], "rejected": ["d"], "num_correct": 2, "subset": "Math"}, "one answer in cho"),
    ({"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}, "prompt: a message must have"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "subset": 3}, "subset is a name, and not 3"),
    ([1], "a row is a JSON object"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_bad_rows_are_named(row: Any, message: str, tmp_path: Path) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = write(tmp_path / "rows.jsonl", [good, row])
    assert refused(path).startswith(f"{path}:2: ")
    assert message in refused(path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    llmbar = {"input": "a", "output_1": "b", "output_2": "c", "label": 0}
    assert "the name does not tell the subset of LLMBar" in refused(write(tmp_path / "x.jsonl", [llmbar]))
    path = write(tmp_path / "llmbar_natural.jsonl", [llmbar])
    assert f"{path}:1: label is 1 or 2" in refused(path)
    one = write(tmp_path / "1.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    two = write(tmp_path / "2.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c", "num_correct": 1}])
    assert "whose figures do not mix" in refused(one, two)
    tie = {"prompt": "a", "chosen": "b", "rejected": "c", "num_correct": 1, "subset": "Ties", "id": "ref:1"}
    assert "was there before" in refused(write(tmp_path / "twice.jsonl", [tie, tie]))
    assert "no such file" in refused(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no row is in there" in refused(str(tmp_path / "empty.jsonl"))


def test_credit_is_shared_in_version_2_alone() -> None:
    asked = {version: Question(version, (), ((), ()), 1, "x", "", "") for version in (1, 2)}  # type: ignore[arg-type]
    assert credit(asked[1], np.float32([1, 1])) == 0
    assert credit(asked[2], np.float32([1, 1])) == 0.5
    assert credit(asked[2], np.float32([1, 2])) == 0


def test_a_ranking_earns_the_share_of_its_pairs() -> None:
    asked = Question(1, (), ((), (), ()), 1, "x", "", "", ranks=(0, 1, 1))
    assert asked.pairs == [(0, 1), (0, 2)]  # the other two tie
    assert credit(asked, np.float32([2, 1, 3])) == 0.5
    assert credit(asked, np.float32([2, 2, 1])) == 0.5  # equal scores earn nothing


def test_an_answer_is_the_assistants(tmp_path: Path) -> None:
    user = {"role": "user", "content": "b"}
    row = {"prompt": "q", "chosen": [[user]], "rejected": ["c"], "subset": "s"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: chosen: expected after the prompt an answer"):
        read_questions([str(path)])
