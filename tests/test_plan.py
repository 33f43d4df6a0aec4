"""The account of memory: numbers worked out by hand for a model of 2,216 weights, and the compiler's."""

from pathlib import Path
from typing import Any

import jax
import pytest
import yaml

from jaxrl_llm.config import Config, load
from jaxrl_llm.errors import UserError
from jaxrl_llm.plan import Plan, Target, Traces, compile_programs, find_mend, make_plan, make_target
from jaxrl_llm.plan.kept import Kept
from jaxrl_llm.plan.mend import candidates
from jaxrl_llm.plan.target import parse_bytes

# A layer: norms 2 x 8; wq, wo 8 x 2 x 4 each; wk, wv 8 x 1 x 4 each; MLP 3 x 8 x 16: 592.  Two of them, embedding and
# head 64 x 8 each, the last norm 8: 2,216.  A critic has 8 weights in place of the head's 512: 1,712.
MODEL = {"vocab_size": 64, "d_model": 8, "d_ff": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "context": 64}
POLICY, CRITIC = 2216, 1712
TEXT = {"data": {"path": "a.txt", "length": 16}}
PREFERENCES = {"algo": {"kind": "dpo"}, "data": {"kind": "preferences", "path": "pairs.jsonl", "length": 16}}
PPO: dict[str, Any] = {
    "algo": {"kind": "ppo"},
    "data": {"kind": "prompts", "path": "prompts.txt"},
    "rollout": {
        "prompts": 8,
        "slots": 4,
        "max_prompt_tokens": 8,
        "max_new_tokens": 24,
        "rewards": {"parts": {"kind_words": {"kind": "model", "path": "reward"}, "brief": {"kind": "length"}}},
    },
}


def config(folder: Path, stage: dict[str, Any], *overrides: str) -> Config:
    common = {"workdir": "run", "model": MODEL, "training": {"steps": 4, "batch_size": 8}}
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(common | stage))
    return load(path, overrides)


def here(n_devices: int = 1, limit: int | None = None) -> Target:
    return Target(tuple(jax.devices()[:n_devices]), limit, "here")


def planned(folder: Path, stage: dict[str, Any], *overrides: str, n_devices: int = 1) -> Plan:
    return make_plan(config(folder, stage, *overrides), here(n_devices), Traces())


def bytes_of(plan: Plan, phase: str, role: str, what: str) -> tuple[int, int]:
    """Of the one line whose text begins so: of all devices, and of one."""
    (found,) = (x for x in plan.lines if (x.phase, x.role) == (phase, role) and x.what.startswith(what))
    return found.size.total, found.size.device


def test_weights_optimizer_and_gradients_by_hand(tmp_path: Path) -> None:
    plan = planned(tmp_path, TEXT, "training.ema=0.9")
    for phase, what, n_bytes in (
        ("resident", "weights, trained", 4 * POLICY),
        ("resident", "optimizer", 8 * POLICY + 4),  # two moments, and a counter
        ("resident", "running average", 4 * POLICY),
        ("update", "gradients", 4 * POLICY),
    ):
        assert bytes_of(plan, phase, "policy", what) == (n_bytes, n_bytes)
    assert bytes_of(plan, "update", "batch", "rows")[0] == 8 * 16 * 4 * 5
    assert plan.checkpoint == 4 * 4 * POLICY + 4
    twice = planned(tmp_path, TEXT, "training.micro_batches=2")
    assert bytes_of(twice, "update", "policy", "gradients")[0] == 2 * 4 * POLICY


def test_a_device_has_its_shards_and_not_its_share(tmp_path: Path) -> None:
    plan = planned(tmp_path, TEXT, n_devices=8)
    split = 2 * (592 - 16) + 2 * 512  # all but the norms, which every device has whole
    whole = 2 * 16 + 8
    assert bytes_of(plan, "resident", "policy", "weights") == (4 * POLICY, 4 * (split // 8 + whole))
    assert bytes_of(plan, "resident", "policy", "optimizer") == (8 * POLICY + 4, 8 * (split // 8 + whole) + 4)
    one_device = bytes_of(planned(tmp_path, TEXT), "update", "policy", "activations")[1]
    kept = bytes_of(plan, "update", "policy", "activations")[1]
    gathered = 4 * (2 * (592 - 16) + 512)  # with remat=none the layers and the head stay as they were put together
    assert one_device / 8 < kept < one_device / 8 + 1.2 * gathered


def test_tensor_splits_heads_and_activations(tmp_path: Path) -> None:
    plan = planned(tmp_path, TEXT, "mesh.fsdp=1", "mesh.tensor=2", n_devices=2)
    split = 2 * (2 * 64 + 3 * 128) + 2 * 512  # not wk and wv: one KV head
    assert bytes_of(plan, "resident", "policy", "weights")[1] == 4 * (POLICY - split // 2)
    whole = bytes_of(planned(tmp_path, TEXT), "update", "policy", "activations")[1]
    assert 0.5 * whole < bytes_of(plan, "update", "policy", "activations")[1] < 0.85 * whole


def test_context_splits_rows_and_weights(tmp_path: Path) -> None:
    """A quarter of the places, but keys and values of all: of one layer at a time, unless they are kept."""
    more = ("data.length=64", "training.batch_size=4", "compute.remat=full")
    one = planned(tmp_path, TEXT, *more)
    four = planned(tmp_path, TEXT, *more, "mesh.fsdp=1", "mesh.context=4", n_devices=4)
    like_fsdp = planned(tmp_path, TEXT, *more, n_devices=4)
    for what in ("weights", "optimizer"):
        assert bytes_of(four, "resident", "policy", what) == bytes_of(like_fsdp, "resident", "policy", what)
    whole, kept = (bytes_of(plan, "update", "policy", "activations")[1] for plan in (one, four))
    assert whole / 4 <= kept < whole / 4 + 4 * (512 + 40)  # what does not grow with T: no more than head and norms
    logits = [bytes_of(plan, "update", "policy", "logits")[1] for plan in (one, four)]
    assert logits[1] == logits[0] / 4
    layers = [bytes_of(plan, "update", "policy", "a layer at work")[1] for plan in (one, four)]
    assert layers[1] < layers[0] / 2
    fully = (*more[:2], "compute.remat=none", "mesh.fsdp=1")
    kept = bytes_of(planned(tmp_path, TEXT, *fully, "mesh.context=4", n_devices=4), "update", "policy", "activations")[
        1
    ]
    whole = bytes_of(planned(tmp_path, TEXT, *fully), "update", "policy", "activations")[1]
    assert kept < whole / 3  # neither scores nor all of the rest, but weights that were put together


def test_the_table_of_tokens_is_never_put_together(tmp_path: Path) -> None:
    """Of a layer and the head [8, 64], gathered, and their gradients."""
    plan = planned(tmp_path, TEXT, n_devices=8)
    assert bytes_of(plan, "update", "policy", "gathered")[1] == 2 * 4 * (592 + 512)


def test_a_row_that_is_too_long_for_a_device_is_cut(tmp_path: Path) -> None:
    def loaded(more: tuple[str, ...]) -> Config:
        return config(tmp_path, TEXT, "data.length=64", "training.batch_size=1", "compute.remat=full", *more)

    traces = Traces()
    two = ("mesh.fsdp=1", "mesh.tensor=2")
    limit = make_plan(loaded(two), here(2), traces).peak.device - 1
    mend = find_mend(make_plan(loaded(()), here(), traces), here(limit=limit), loaded, traces)
    assert mend is not None
    assert {"mesh.fsdp=1", f"mesh.context={mend.n_devices}"} <= set(mend.overrides)
    assert mend.peak <= limit


def test_lora_trains_little_and_shares_the_reference(tmp_path: Path) -> None:
    lora = ("trainable.kind=lora", "trainable.rank=2", "trainable.targets=[wq]", "compute.dtype=bfloat16")
    plan = planned(tmp_path, PREFERENCES, *lora)
    adapters = 2 * (8 * 2 + 2 * 2 * 4)  # A and B of wq in two layers
    assert bytes_of(plan, "resident", "policy", "weights, trained") == (4 * adapters,) * 2
    assert bytes_of(plan, "resident", "policy", "optimizer") == (8 * adapters + 4,) * 2
    base = 2 * (POLICY - 40) + 4 * 40  # norms stay float32
    assert bytes_of(plan, "resident", "policy", "weights, fixed (bfloat16)") == (base, base)
    assert bytes_of(plan, "resident", "ref", "weights: those of policy") == (0, 0)
    assert bytes_of(plan, "load", "policy", "weights") == (4 * POLICY,) * 2  # float32, until they are cast
    assert plan.checkpoint == 12 * adapters + 4  # the base is read where it came from


def test_trained_parts_keep_the_rest_in_the_checkpoint(tmp_path: Path) -> None:
    plan = planned(tmp_path, TEXT, "trainable.kind=parts", "trainable.layers=last 1")
    assert bytes_of(plan, "resident", "policy", "weights, trained")[0] == 4 * 592
    assert bytes_of(plan, "resident", "policy", "weights, fixed (float32)")[0] == 4 * (POLICY - 592)
    assert plan.checkpoint == 4 * POLICY + 8 * 592 + 4
    whole = bytes_of(planned(tmp_path, TEXT), "update", "policy", "activations")[0]
    assert bytes_of(plan, "update", "policy", "activations")[0] < 0.7 * whole


def test_a_reference_has_a_copy(tmp_path: Path) -> None:
    plan = planned(tmp_path, PREFERENCES)
    assert bytes_of(plan, "resident", "ref", "weights, fixed (float32)")[0] == 4 * POLICY
    cached = planned(tmp_path, PREFERENCES, "algo.reference=cached")
    assert not [line for line in cached.lines if line.role == "ref"]


def test_what_waits_on_the_host_takes_two_layers_and_a_table_of_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are the host's; nothing else moves."""
    monkeypatch.chdir(tmp_path)
    traces = Traces()
    there, away = (
        make_plan(config(tmp_path, PPO, f"compute.offload={where}"), here(), traces) for where in ("none", "frozen")
    )
    for role, phase, weights in (("ref", "prepare", POLICY), ("kind_words", "score", CRITIC)):
        (waiting,) = (x for x in away.lines if (x.phase, x.role) == ("resident", role))
        assert (waiting.size.total, waiting.size.device, waiting.size.host) == (4 * weights, 0, 4 * weights)
        assert bytes_of(away, phase, role, "fetched")[1] == 4 * (2 * 592 + 512)
    assert away.checkpoint == there.checkpoint
    before, after = ({phase.name: phase.device for phase in plan.phases} for plan in (there, away))
    assert before["update"] - after["update"] == 4 * (POLICY + CRITIC)
    assert before["prepare"] - after["prepare"] == 4 * (POLICY + CRITIC - 2 * 592 - 512)


def test_a_round_of_ppo_names_all_roles_and_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, PPO, "critic.model={vocab_size: 64, d_model: 8, d_ff: 16, n_layers: 1, n_heads: 2}")
    critic = CRITIC - 592 + 32 + 32  # one layer, of two KV heads
    assert bytes_of(plan, "resident", "value", "weights, trained")[0] == 4 * critic
    assert bytes_of(plan, "resident", "ref", "weights")[0] == 4 * POLICY
    assert bytes_of(plan, "resident", "kind_words", "weights")[0] == 4 * CRITIC
    assert "reward is not there yet" in plan.notes[0]
    assert bytes_of(plan, "sample", "policy", "sampler's weights")[0] == 4 * POLICY
    # Slots x length rounded to 64 x layers x KV heads x channels x (keys and values) x float32.
    assert bytes_of(plan, "sample", "policy", "KV cache of 4 slots x 64")[0] == 4 * 64 * 2 * 1 * 4 * 2 * 4
    arrays = 8 * 32 * 4 * (4 + 1 + 5)  # rows x T: tokens, the sampler's log-probabilities, what prepare adds
    numbers = 8 * 4 * (5 + 13)  # score, group, end and two coefficients; statistics
    assert arrays < bytes_of(plan, "prepare", "rollouts", "prepared")[0] <= arrays + numbers
    assert [phase.name for phase in plan.phases] == ["sample", "score", "prepare", "update"]
    assert {line.role for line in plan.lines if line.phase == "update"} >= {"policy", "value", "rollouts"}
    assert plan.peak.name == "update"
    resident = sum(line.size.device for line in plan.lines if line.phase == "resident")
    added = sum(line.size.device for line in plan.lines if line.phase == "update" and line.counted)
    assert plan.peak.device == resident + added


def test_grpo_has_no_critic_and_a_reward_model_its_own_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reward").mkdir()
    reward = {"workdir": "reward", "model": {**MODEL, "n_layers": 1}, "algo": {"kind": "reward"}}
    data = {"kind": "preferences", "path": "pairs.jsonl", "length": 16}
    (tmp_path / "reward/config.yaml").write_text(yaml.safe_dump({**reward, "data": data}))
    plan = planned(tmp_path, {**PPO, "algo": {"kind": "grpo"}}, "rollout.n=2", "rollout.prompts=4")
    assert not [line for line in plan.lines if line.role == "value"]
    assert bytes_of(plan, "resident", "kind_words", "weights")[0] == 4 * (CRITIC - 592)
    (tmp_path / "reward/config.yaml").write_text(yaml.safe_dump({**reward, **TEXT, "algo": {"kind": "pretrain"}}))
    with pytest.raises(UserError, match=r"rewards\.parts\.kind_words: .*a reward model is wanted"):
        planned(tmp_path, PPO)


def test_what_is_kept_grows_as_it_should(tmp_path: Path) -> None:
    small = config(tmp_path, TEXT)
    mesh, traces = planned(tmp_path, TEXT).parts.mesh, Traces()
    none, dots, full = (traces(small, mesh, "policy", remat) for remat in ("none", "dots", "full"))
    sizes = [kept.at(4, 512, False) for kept in (none, dots, full)]
    assert sizes[0] > sizes[1] > sizes[2]
    # Of each layer its input in float32; besides, of the embedding, the last norm and the head a few such.
    assert 2 * 8 * 4 <= full.terms[1, 1] < 10 * 8 * 4
    scores = 2 * 2 * 4  # of two layers and two heads, float32 [T, T]
    assert none.terms[1, 2] >= scores
    assert (1, 2) not in dots.terms
    assert none.at(4, 512, True) == none.at(4, 512, False) - round(none.terms[1, 2] * 4 * 512**2)
    assert Kept({(0, 0): 5.0, (1, 1): 2.0, (1, 2): 1.0}).at(3, 10, False) == 5 + 60 + 300
    before = len(traces.made)
    traces(small, mesh, "policy", "dots")
    assert len(traces.made) == before


def test_the_override_makes_it_fit(tmp_path: Path) -> None:
    def loaded(more: tuple[str, ...]) -> Config:
        return config(tmp_path, TEXT, "data.length=64", *more)

    traces = Traces()
    plan = make_plan(loaded(()), here(), traces)
    whole = plan.peak.device
    for share in (0.8, 0.5, 0.25):
        target = here(limit=int(share * whole))
        mend = find_mend(plan, target, loaded, traces)
        assert mend is not None
        assert mend.n_devices == 1
        peak = make_plan(loaded(mend.overrides), target, Traces()).peak.device
        assert peak == mend.peak <= share * whole
    half = find_mend(plan, here(limit=whole), loaded, traces, {"update": 2.0, "sample": 9.0})  # there is no `sample`
    assert half is not None
    assert half.peak == 2 * make_plan(loaded(half.overrides), target, Traces()).peak.device <= whole
    first = next(candidates(plan, 1))
    assert first == (("compute.remat=dots",), 1)
    least = make_plan(loaded(("compute.remat=full", "training.micro_batches=8")), here(), traces).peak.device
    more = find_mend(plan, here(limit=least - 1), loaded, traces)
    assert more is not None
    assert more.n_devices > 1
    assert more.peak < least
    assert find_mend(plan, here(limit=100), loaded, traces) is None


def test_checkpoints_that_are_kept(tmp_path: Path) -> None:
    for every, last, keep, steps, n in (
        (0, 2, "null", 100, 1),
        (10, 2, "null", 100, 2),
        (10, 2, "null", 15, 2),
        (10, 3, "null", 15, 2),
        (10, 2, "20", 100, 6),
        (10, 1, "20", 95, 5),
    ):
        checkpoint = f"checkpoint={{every: {every}, keep_last: {last}, keep_every: {keep}}}"
        assert planned(tmp_path, TEXT, checkpoint, f"training.steps={steps}").n_checkpoints == n


def test_chips_that_are_not_here(tmp_path: Path) -> None:
    target = make_target("h100", None, 16)
    assert (len(target.devices), target.limit, target.compiles) == (16, int(0.94 * 80 * 2**30), False)
    plan = make_plan(config(tmp_path, PREFERENCES, "training.batch_size=16", "mesh.data=2"), target, Traces())
    assert dict(plan.parts.mesh.shape) == {"data": 2, "fsdp": 8, "context": 1, "tensor": 1}
    assert bytes_of(plan, "resident", "ref", "weights, fixed (bfloat16)")[0] == 2 * (POLICY - 40) + 4 * 40
    assert make_target("v5e").devices[0].platform == "tpu"
    assert make_target(None, "1.5 GiB").limit == 3 * 2**29
    assert parse_bytes("16GB") == 16 * 10**9
    for wrong in (("H1000", None, None), ("", None, None), (None, "80", None), (None, "0GiB", None), (None, None, 0)):
        with pytest.raises(UserError, match="mend|expected|at least"):
            make_target(*wrong)


@pytest.mark.parametrize(("n", "mesh"), [(1, ()), (4, ("mesh.fsdp=1", "mesh.context=4"))], ids=["one", "context"])
def test_the_compiler_agrees(tmp_path: Path, n: int, mesh: tuple[str, ...]) -> None:
    larger = "model={vocab_size: 512, d_model: 64, d_ff: 192, n_layers: 4, n_heads: 4, n_kv_heads: 2, context: 256}"
    plan = planned(tmp_path, TEXT, larger, "data.length=128", "compute.remat=dots", *mesh, n_devices=n)
    (compiled,) = compile_programs(plan)
    assert (compiled.name, compiled.phase, compiled.beside, compiled.refused) == ("update", "update", 0, None)
    resident = plan.of("resident").device + bytes_of(plan, "update", "batch", "rows")[1]
    assert compiled.arguments == pytest.approx(resident, rel=0.01)
    assert compiled.temporaries == pytest.approx(plan.phase("update") - resident, rel=0.2)
