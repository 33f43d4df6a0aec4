"""Runs that trained a part of the weights, or adapters: what their checkpoints hold, and what is opened of them."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.assemble import assemble
from jaxrl_llm.cli import main
from jaxrl_llm.config import load
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import count_params
from jaxrl_llm.saved import find_model, open_model
from jaxrl_llm.training.checkpoint import Checkpoints
from tests.tiny import Runs, answer_scores, rows, train

ONE = jax.devices()[:1]
TARGETS = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")
ADAPTERS = {f"layers/{name}.{part}" for name in TARGETS for part in "ab"}


def leaves(tree: Any, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {prefix.rstrip("/")}
    return {name for key, child in tree.items() for name in leaves(child, f"{prefix}{key}/")}


def saved_leaves(run: Path, item: str) -> set[str]:
    """The weights that are on disk, by the store's own account."""
    metadata = json.loads((run / "checkpoints" / "4" / item / "_METADATA").read_text())["tree_metadata"].values()
    return {"/".join(str(key["key"]) for key in each["key_metadata"]) for each in metadata}


@pytest.mark.parametrize("name", ["sft", "dpo", "reward"])
def test_only_adapters_are_saved_and_the_reference_is_no_copy(runs: Runs, name: str) -> None:
    run, role = runs(f"{name}_lora"), "reward" if name == "reward" else "policy"
    heads = {"score", "safety"} if name == "reward" else set()
    assert saved_leaves(run, "params") == {f"{role}/{leaf}" for leaf in ADAPTERS | heads}
    assert not (run / "checkpoints" / "4" / "fixed").exists()
    parts = assemble(load(run / "config.yaml"), ONE)
    weights = {role: parts.models[role].init(jax.random.key(0))}
    state = parts.new_state(weights, 0)
    assert state.fixed.keys() == {role}  # no "ref", which is these same weights
    assert leaves(state.fixed[role]).isdisjoint(ADAPTERS)
    assert parts.n_trained == count_params(parts.divisions[role].specs) < parts.n_params / 2
    if name == "dpo":
        roles = parts.roles(state.params, state.fixed)
        assert roles["ref"]["layers"]["wq"] is roles["policy"]["layers"]["wq"]


@pytest.mark.parametrize("name", ["sft", "dpo", "reward"])
def test_parts_are_saved_all_and_trained_in_part(runs: Runs, name: str) -> None:
    role = "reward" if name == "reward" else "policy"
    base, run = (find_model(runs(each)).weights for each in ("pretrain" if name == "sft" else "sft", f"{name}_parts"))
    mesh = make_mesh(MeshConfig(), ONE)
    before, after = base("policy", mesh), run(role, mesh)
    for key in ("wq", "w_down"):
        np.testing.assert_array_equal(after["layers"][key][0], before["layers"][key][0])
        assert np.abs(after["layers"][key][1] - before["layers"][key][1]).max() > 1e-4
    np.testing.assert_array_equal(after["embed"], before["embed"])
    np.testing.assert_array_equal(after["final_norm"], before["final_norm"])


@pytest.mark.parametrize("name", ["sft_lora", "dpo_lora", "reward_lora", "dpo_parts"])
def test_what_is_opened_is_what_was_trained(runs: Runs, tmp_path: Path, name: str) -> None:
    """Adapters are added in: the model that is opened, or exported, scores as the run itself does."""
    opened, there = open_model(runs(name), head=None), runs.opened(name)
    store = next(iter(there.data.stores.values()))
    scores = answer_scores(opened.model, opened.params, store)
    checkpoints = Checkpoints(runs(name), None)
    saved = checkpoints.restore(4, there.parts.template).state
    role = next(iter(there.parts.algo.trained))
    fixed = there.parts.complete(saved.fixed, {role: there.parts.whole(there.state, role)})
    weights = there.parts.roles(saved.params, fixed)[role]
    there.data.source.close()
    np.testing.assert_allclose(scores, answer_scores(there.parts.models[role], weights, store), atol=2e-4)
    base = answer_scores(there.parts.models[role], there.parts.whole(there.state, role), store)
    assert np.abs(scores - base).max() > 1e-2
    assert main(["export", str(runs(name)), str(tmp_path / "out")]) == 0
    again = open_model(tmp_path / "out", head=None)
    np.testing.assert_allclose(answer_scores(again.model, again.params, store), scores, atol=2e-4)


def test_stages_follow_a_run_with_adapters(runs: Runs, tmp_path: Path) -> None:
    lora = {"kind": "lora", "rank": 2}
    first = train(runs.config("dpo", tmp_path / "dpo.yaml", init_from=str(runs("sft_lora")), trainable=lora))
    assert rows(first)[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    mesh = make_mesh(MeshConfig(), ONE)
    find_model(first).weights("policy", mesh)  # adapters on a base that is itself one with adapters
    start = runs.opened("ranked", f"init_from={first}").state.params["reward"]
    merged = find_model(first).weights("policy", mesh)
    np.testing.assert_array_equal(start["layers"]["wq"], merged["layers"]["wq"])


def test_adapters_whose_base_went_say_which(runs: Runs, tmp_path: Path) -> None:
    train(
        runs.config("dpo", tmp_path / "dpo.yaml", trainable={"kind": "lora", "rank": 2}, algo={"kind": "orpo"}),
        "training.steps=1",
    )
    run = tmp_path / "dpo"
    record = next((run / "checkpoints" / "1" / "run").rglob("metadata"))
    text = record.read_text()
    where = str(runs("sft") / "checkpoints" / "4")
    assert where in text
    record.write_text(text.replace(where, "/nowhere/checkpoints/4"))
    with pytest.raises(UserError, match="adapters for /nowhere"):
        find_model(run).weights("policy", make_mesh(MeshConfig(), ONE))
