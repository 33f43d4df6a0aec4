"""`ckpt ls / verify`: what there is of a run, and whether it can be read whole."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxrl_llm.assemble import assemble
from jaxrl_llm.cli import main
from jaxrl_llm.config import load
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import MeshConfig
from jaxrl_llm.training.checkpoint import Checkpoints
from tests.tiny import Runs


@pytest.fixture
def run(runs: Runs, tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 2 and 4, to be damaged."""
    return Path(shutil.copytree(runs("sft_parts"), tmp_path / "run"))


def damaged(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    capsys.readouterr()
    assert main(["ckpt", "verify", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert "DAMAGED" in out
    return err


def test_ls(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("keep_every: null", "keep_every: 2"))
    (run / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    losses = {
        (row["split"], row["step"]): row["loss"]
        for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    }
    capsys.readouterr()
    assert main(["ckpt", "ls", str(run)]) == 0
    head, two, four, rest = capsys.readouterr().out.splitlines()
    assert head.split("  ")[:2] == ["step", "size"]
    assert two.split()[0] == "2"
    assert two.split()[3:] == [f"{losses['train', 2]:.4f}", "-", "kept"]
    assert four.split()[3:] == [f"{losses['train', 4]:.4f}", f"{losses['validation', 4]:.4f}", "newest,", "kept"]
    n_bytes = sum(file.stat().st_size for file in (run / "checkpoints" / "4").rglob("*") if file.is_file())
    assert f"  {n_bytes / 1024:.1f} KiB  " in four
    assert rest.endswith(": 6.orbax-checkpoint-tmp")
    (run / "metrics.jsonl").write_text("".join((run / "metrics.jsonl").read_text().splitlines(True)[:3]))
    assert main(["ckpt", "ls", str(run)]) == 0
    assert f"{losses['train', 3]:.4f} at 3" in capsys.readouterr().out.splitlines()[2]


def test_whole_ones_are_read_to_the_last_array(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ckpt", "verify", str(run)]) == 0
    state = assemble(dataclasses.replace(load(run / "config.yaml"), mesh=MeshConfig())).template
    leaves = jax.tree.leaves((state.params, state.fixed, state.opt_state))
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    said = f"whole, {len(leaves)} arrays, {n_bytes:,} bytes, all finite"
    assert capsys.readouterr().out.splitlines() == [f"step 2: {said}", f"step 4: {said}"]
    assert state.fixed


@pytest.mark.parametrize("item", ["params", "opt_state", "fixed"])
def test_a_file_that_is_cut_short(item: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "checkpoints" / "4" / item
    largest = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    message = damaged(capsys, run)
    assert f"{folder}/: {item}." in message
    assert f"mend: remove {folder.parent}; the run then goes on from step 2" in message
    assert damaged(capsys, folder.parent)
    assert main(["ckpt", "verify", str(run / "checkpoints" / "2")]) == 0


def test_a_file_or_folder_that_is_gone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints" / "2" / "run" / "metadata").unlink()
    shutil.rmtree(run / "checkpoints" / "4" / "opt_state")
    message = damaged(capsys, run)
    assert str(run / "checkpoints" / "2" / "run") in message
    assert str(run / "checkpoints" / "4" / "opt_state") in message
    assert "copy it anew" in message


def test_numbers_that_are_not_finite(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(run / "config.yaml")
    checkpoints = Checkpoints(run, config.checkpoint)
    saved = checkpoints.restore(4, assemble(dataclasses.replace(config, mesh=MeshConfig())).template)
    params = {"policy": {**saved.state.params["policy"]}}
    params["policy"]["unembed"] = params["policy"]["unembed"].at[3, 5].set(jnp.nan)
    state = dataclasses.replace(saved.state, params=params, step=jnp.int32(6))
    checkpoints.save(state, (saved.source, saved.arrays), checkpoints.run_json(4))
    checkpoints.close()
    message = damaged(capsys, run)
    assert f"{run}/checkpoints/6/params: params.policy.unembed has 1 numbers that are not finite" in message


def test_what_is_no_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action, where, said in (
        ("ls", tmp_path, "there is no run"),
        ("verify", tmp_path / "nowhere", "there is no run"),
        ("ls", run / "checkpoints" / "2", "is one checkpoint"),
        ("verify", run / "checkpoints" / "3", "there is no checkpoint of step 3; there is: 2, 4"),
    ):
        assert main(["ckpt", action, str(where)]) == 2
        assert said in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints" / "2")
    shutil.rmtree(run / "checkpoints" / "4")
    assert main(["ckpt", "ls", str(run)]) == 2
    assert "no whole checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("dpo", 0), ("sft_lora", 2)])
def test_what_a_run_began_from_is_gone(
    name: str, code: int, runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished policy needs its reference no more; adapters need their base, but are not damaged for want of it."""
    run = runs(name)

    def gone(path: object) -> None:
        raise UserError(f"{path}: there is no run")

    monkeypatch.setattr("jaxrl_llm.saved.find_model", gone)
    capsys.readouterr()
    assert main(["ckpt", "verify", str(run)]) == code
    out, err = capsys.readouterr()
    assert "DAMAGED" not in out
    assert ("holds adapters for" in err) == (code == 2)
    assert "remove" not in err
