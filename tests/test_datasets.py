"""Data that options do not fit is refused before a run begins, and rows that were skipped are kept in its directory."""

import json
from pathlib import Path

import pytest

from jaxrl_llm.algos.dpo import DpoConfig
from jaxrl_llm.algos.kto import KtoConfig
from jaxrl_llm.algos.reward import RewardConfig
from jaxrl_llm.data.sequences import Encoded, SequenceStore, write_sequences
from jaxrl_llm.datasets import refuse_idle_options
from jaxrl_llm.errors import UserError
from tests import tiny

ANSWERS = [([7, 2], [1.0, 1.0]), ([8, 2], [1.0, 1.0])]


def stores(path: Path, **more: object) -> dict[str, SequenceStore]:
    """A corpus whose one row says nothing besides which answer is better, and one whose second row says `more`."""
    plain = Encoded([1, 5], ANSWERS, ranks=(0, 1))
    rich = Encoded([1, 5], ANSWERS, ranks=(0, 1), **more)  # type: ignore[arg-type]
    return {"a": write_sequences(path / "a", [plain]), "b": write_sequences(path / "b", [plain, rich])}


@pytest.mark.parametrize(
    ("option", "column"),
    [
        ({"margin": "small"}, {"rating": 0}),
        ({"margin": "large"}, {"rating": 3}),
        ({"margin": "column"}, {"margin": 0.5}),
        ({"safety_weight": 0.1}, {"safe": (-1, 0)}),
    ],
)
def test_one_row_is_enough_and_none_is_too_few(tmp_path: Path, option: dict, column: dict) -> None:
    config, [(key, value)], [name] = RewardConfig(**option), option.items(), column
    refuse_idle_options(config, stores(tmp_path / "said", **column))
    with pytest.raises(UserError, match=rf"algo.{key}={value} would do nothing: no row of the data has a `{name}`"):
        refuse_idle_options(
            config, stores(tmp_path / "not", **({"rating": 2} if key != "margin" else {"safe": (1, 0)}))
        )


def test_what_reads_no_column_needs_none(tmp_path: Path) -> None:
    for config in (RewardConfig(centring=0.01), DpoConfig()):
        refuse_idle_options(config, stores(tmp_path / config.kind))


@pytest.mark.parametrize("config", [KtoConfig(), RewardConfig(loss="pointwise")], ids=["kto", "pointwise"])
@pytest.mark.parametrize(("labels", "missing"), [((1, 1), "unwanted"), ((0, 0), "wanted"), ((0, 1, 1), None)])
def test_labels_of_one_kind_teach_nothing(
    tmp_path: Path, config: KtoConfig | RewardConfig, labels: tuple[int, ...], missing: str | None
) -> None:
    store = write_sequences(tmp_path / "s", [Encoded([1, 5], ANSWERS[:1], label=label) for label in labels])
    if missing is None:
        refuse_idle_options(config, {"data": store})
    else:
        with pytest.raises(UserError, match=f"no row of the data is {missing}"):
            refuse_idle_options(config, {"data": store})


def test_skipped_rows_are_kept_and_what_is_evaluated_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no", "rating": i % 2} for i in range(40)]
    rows = [*good[:5], {"prompt": "p", "chosen": 3, "rejected": "no"}, *good[5:]]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"kind": "preferences", "path": str(file), "length": 64, "holdout": 0.25}
    data |= {"invalid": "skip", "max_invalid": 0.1}
    stage = {"algo": {"kind": "reward", "margin": "small"}, "data": data, "model": tiny.MODEL, "eval": {"every": 2}}
    run = tiny.train(tiny.write_config(tmp_path / "run.yaml", stage), "logging.quiet=false", sample=True)
    [line] = (run / "quarantine.jsonl").read_text().splitlines()
    assert "pairs.jsonl:6" in json.loads(line)["error"]
    printed, figures = capsys.readouterr().out, json.loads((run / "report.json").read_text())
    assert f"skipped rows of the wrong form: 1, kept in {run / 'quarantine.jsonl'}" in printed
    assert figures["quarantined"] == figures["facts"]["rows"]["data"]["invalid"] == 1
    last = figures["evals"]["validation"]["last"]
    assert f"accuracy {100 * last['accuracy']:5.1f} % ({100 * last['accuracy_low']:4.1f} to" in printed
    ratings = figures["evals"]["validation"]["details"]["by_rating"]
    assert sum(found["pairs"] for found in ratings.values()) == last["pairs"] == 11


def test_one_reference_answer_has_no_deviation(tmp_path: Path) -> None:
    store = write_sequences(tmp_path / "s", [Encoded([1, 5], ANSWERS[:1], label=label) for label in (0, 1)])
    with pytest.raises(UserError, match="it takes two to say how a reward model's scores lie"):
        refuse_idle_options(RewardConfig(loss="pointwise"), {"data": store})
