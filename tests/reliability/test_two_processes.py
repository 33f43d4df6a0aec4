"""Two processes of four devices train the runs that one process of eight trains, and each goes on with the other's."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from jaxrl_llm.saved import find_model
from tests.launcher import environment, finish, jaxrl, write_config
from tests.reliability.audited import written
from tests.reliability.several import Digests, recorded
from tests.tiny import Runs, column, train

STAGES = ["pretrain", "sft", "reward", "dpo", "dpo_cached", "ppo"]
RESUMED = ["sft", "dpo", "ppo"]
SAVED, LAST = 5, 12  # the first checkpoint: of PPO amid a round


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def addresses() -> dict[str, str]:
    """What tells two processes of each other, but for their numbers."""
    return {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}


def train_on_two(configs: Sequence[Path]) -> None:
    """One after another; they join only once."""
    env, command = environment(4) | addresses(), [sys.executable, "-m", "tests.reliability.several", *map(str, configs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, env=env | {"JAX_PROCESS_ID": str(i)}, **pipes) for i in range(2)]
    for process in processes:
        finish(process)


@dataclass(frozen=True)
class Pair:
    """Both runs of every stage, and of some what the one made of the other's checkpoint: ONE_to_two, TWO_to_one."""

    folder: Path
    batches: dict[str, Digests]

    def write(self, runs: Runs, name: str, kind: str) -> Path:
        """The config of a run."""
        path = runs.config(name, self.folder / kind / f"{name}.yaml", mesh={"data": 2, "fsdp": 4})
        config = yaml.safe_load(path.read_text())
        config["training"] |= {"steps": LAST, "batch_size": 8}
        config["checkpoint"] = {"every": SAVED, "keep_last": 9}
        config["eval"]["max_rows"] = 16
        config["data"]["cache_dir"] = str(self.folder / f"cache {kind[:3]}")
        if "rollout" in config:
            config["rollout"]["slots"] = 8
        path.write_text(yaml.safe_dump(config))
        return path

    def cut(self, name: str, kind: str, other: str) -> None:
        """What another run has left at its first checkpoint, as the beginning of this one."""
        run = shutil.copytree(self.folder / other / name, self.folder / kind / name)
        for folder in (run / "checkpoints").iterdir():
            if folder.name != str(SAVED):
                shutil.rmtree(folder)

    def losses(self, name: str, kind: str, metric: str = "loss", split: str = "train") -> list[float]:
        return column(self.folder / kind / name, metric, split)


@pytest.fixture(scope="module")
def pair(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pair = Pair(tmp_path_factory.mktemp("pair"), {})

    def on_one(name: str, kind: str) -> None:
        with recorded() as pair.batches[f"{kind} {name}"]:
            train(pair.write(runs, name, kind), devices=8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg_cache"))
        for name in STAGES:
            on_one(name, "one")
        kinds = [("two", name) for name in STAGES] + [("one_to_two", name) for name in RESUMED]
        configs = [pair.write(runs, name, kind) for kind, name in kinds]
        for name in RESUMED:
            pair.cut(name, "one_to_two", "one")
        train_on_two(configs)
        for (kind, name), config in zip(kinds, configs, strict=True):
            parts = [json.loads(Path(f"{config}.{number}.json").read_text()) for number in range(2)]
            pair.batches[f"{kind} {name}"] = {step: parts[0][step] | parts[1][step] for step in parts[0]}
            for step in parts[0]:  # each has what the devices of the other have not
                rows = [{key for key in part[step] if ".inputs_BT" in key} for part in parts]
                assert rows[0]
                assert not rows[0] & rows[1], "a row of a batch was read twice"
        for name in RESUMED:
            pair.cut(name, "two_to_one", "two")
            on_one(name, "two_to_one")
    return pair


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_train_as_one_does(pair: Pair, name: str) -> None:
    """Losses, what is held out, and the scale of a reward model's scores."""
    assert len(pair.losses(name, "one")) == LAST
    metrics = [("loss", "train", 1e-5), ("grad_norm", "train", 1e-4)]
    metrics += [("loss", "validation", 1e-5)] if name not in ("pretrain", "ppo") else []
    metrics += [("accuracy", "validation", 1e-5)] if name in ("reward", "dpo", "dpo_cached") else []
    if name == "ppo":
        metrics = [(key, "train", 1e-4) for key in ("score", "kl", "length", "ended", "value_loss", "entropy")]
        assert pair.losses(name, "two")[:2] == pytest.approx(pair.losses(name, "one")[:2], rel=1e-5, abs=1e-6)
    for metric, split, far in metrics:
        ours, theirs = (pair.losses(name, kind, metric, split) for kind in ("two", "one"))
        assert theirs
        assert ours == pytest.approx(theirs, rel=far, abs=1e-6), metric
    ours, theirs = (find_model(pair.folder / kind / name).card.score for kind in ("two", "one"))
    assert (ours is None) == (name != "reward")
    if ours is not None:
        assert ours.std == pytest.approx(theirs.std, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in STAGES if name != "ppo"])
def test_two_processes_read_the_batches_of_one_to_the_bit(pair: Pair, name: str) -> None:
    ours, theirs = (pair.batches[f"{kind} {name}"] for kind in ("two", "one"))
    assert len(theirs) == LAST
    if name != "dpo_cached":  # which has the log-probabilities of the reference in it, rounded otherwise
        assert ours == theirs
    else:
        assert {step: {key for key in ours[step] if "ref" not in key} for step in ours} == {
            step: {key for key in theirs[step] if "ref" not in key} for step in theirs
        }


def test_two_processes_write_the_answers_of_one(pair: Pair) -> None:
    kept = [(pair.folder / kind / "ppo" / "samples.jsonl").read_text().splitlines() for kind in ("two", "one")]
    assert len(kept[0]) > 1
    assert [json.loads(line)["tokens"] for line in kept[0]] == [json.loads(line)["tokens"] for line in kept[1]]


@pytest.mark.parametrize("kind", ["two_to_one", "one_to_two"])
@pytest.mark.parametrize("name", RESUMED)
def test_the_one_goes_on_with_what_the_other_saved(pair: Pair, name: str, kind: str) -> None:
    """With the very batches that come next; of PPO with the rest of the round that is in the checkpoint."""
    begun = kind.partition("_")[0]
    whole, rest = pair.batches[f"{begun} {name}"], pair.batches[f"{kind} {name}"]
    assert sorted(map(int, rest)) == list(range(SAVED + 1, LAST + 1))
    for step in [str(SAVED + 1)] if name == "ppo" else rest:
        assert rest[step] == whole[step]
    far = 1e-4 if name == "ppo" else 1e-5
    assert pair.losses(name, kind) == pytest.approx(pair.losses(name, begun), rel=far, abs=1e-6)


def test_one_process_writes_for_both(pair: Pair) -> None:
    """But for its part of the arrays of checkpoints, and what this test has it write."""
    ours, others = (written(pair.folder / "two" / f"log_{number}", pair.folder) for number in range(2))
    for name in ("metrics.jsonl", "samples.jsonl", "details.json", "meta.json", "reference-"):
        assert any(name in line for line in ours), name
    assert [line for line in others if not line.endswith(".1.json")] == []


def test_variables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert "not JAX_NUM_PROCESSES, JAX_PROCESS_ID" in jaxrl("train", config, code=2, JAX_COORDINATOR_ADDRESS="x:1")
    bad = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}
    assert "0 <= ID < NUM" in jaxrl("train", config, code=2, **bad)
