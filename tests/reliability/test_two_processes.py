"""Two processes of four devices train the run that one process of eight trains."""

import json
import socket
from pathlib import Path

import pytest

from jaxrl_llm.saved import find_model
from tests.launcher import finish, jaxrl, rows, start, write_config
from tests.tiny import Runs, column, train


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def on_two_processes(*args: str) -> list[str]:
    env = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = [start(args, devices=4, **env, JAX_PROCESS_ID=str(i)) for i in range(2)]
    return [finish(process) for process in processes]


def test_two_processes_equal_one_and_each_opens_what_the_other_saved(tmp_path: Path) -> None:
    mesh = ["mesh.data=2", "mesh.fsdp=4", "eval.every=0", "eval.max_rows=16"]  # data splits over the processes
    mesh.append("schedule={kind: constant, lr: 3e-3, warmup: 0}")  # whose rates do not depend on where the run ends
    one, two = write_config(tmp_path, "one"), write_config(tmp_path, "two")
    jaxrl("train", one, *mesh, devices=8)
    outputs = on_two_processes("train", str(two), *mesh, "training.steps=12")
    assert "step 12/12" in outputs[0]
    assert "step" not in outputs[1]  # process 0 speaks for all
    jaxrl("train", two, *mesh, devices=8)  # what two saved, one continues
    ours, theirs = (rows(tmp_path / name) for name in ("two", "one"))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert rows(tmp_path / "two", "validation")[-1]["loss"] == pytest.approx(
        rows(tmp_path / "one", "validation")[-1]["loss"], rel=1e-5
    )


@pytest.mark.parametrize("name", ["reward", "dpo_cached"])
def test_two_processes_judge_answers_as_one_does(runs: Runs, tmp_path: Path, name: str) -> None:
    """They compute the reference and the scores together; none waits for what another does alone."""
    args = ["mesh.data=2", "mesh.fsdp=4", "training.steps=3"]
    config = runs.config(name, tmp_path / "two.yaml")
    on_two_processes("train", str(config), *args, f"data.cache_dir={tmp_path / 'cache'}")
    one = train(runs.config(name, tmp_path / "one.yaml"), *args, devices=8)
    for metric, split in (
        ("loss", "train"),
        ("grad_norm", "train"),
        ("loss", "validation"),
        ("accuracy", "validation"),
    ):
        ours, theirs = (column(run, metric, split) for run in (tmp_path / "two", one))
        assert ours == pytest.approx(theirs, rel=1e-4 if metric == "grad_norm" else 1e-5)
    ours, theirs = (find_model(run).card.score for run in (tmp_path / "two", one))
    assert (ours is None) == (name != "reward")
    if ours is not None:
        assert ours.std == pytest.approx(theirs.std, rel=1e-4)


def test_two_processes_write_rate_and_learn_as_one_does(runs: Runs, tmp_path: Path) -> None:
    """PPO with a reward model, a reference and a critic: every host samples, scores and stops alike."""
    args = ["mesh.data=2", "mesh.fsdp=4", "training.batch_size=8", "training.steps=3", "rollout.slots=8"]
    config = runs.config("ppo", tmp_path / "two.yaml")
    on_two_processes("train", str(config), *args)
    one = train(runs.config("ppo", tmp_path / "one.yaml"), *args, devices=8)
    for metric in ("loss", "score", "kl", "length", "ended", "value_loss", "entropy", "kl_coef"):
        ours, theirs = (column(run, metric) for run in (tmp_path / "two", one))
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6), metric
    kept = [(run / "samples.jsonl").read_text().splitlines() for run in (tmp_path / "two", one)]
    assert [json.loads(line)["tokens"] for line in kept[0]] == [json.loads(line)["tokens"] for line in kept[1]]


def test_variables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert "not JAX_NUM_PROCESSES, JAX_PROCESS_ID" in jaxrl("train", config, code=2, JAX_COORDINATOR_ADDRESS="x:1")
    bad = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}
    assert "0 <= ID < NUM" in jaxrl("train", config, code=2, **bad)
