"""What compilers say, read: collectives in their text, TPU slices that are not here, the roofline's bound."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.cli import main
from jaxrl_llm.config import load
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.chips import Chip
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.plan import (
    Traces,
    compile_programs,
    hidden_share,
    make_plan,
    make_roofline,
    make_target,
    topology_target,
    whole_stacks,
)
from jaxrl_llm.plan.compiled import Compiled, refused
from jaxrl_llm.plan.hlo import Collective, collectives, sides_of
from jaxrl_llm.plan.programs import Program
from jaxrl_llm.plan.topology import TOPOLOGIES, elsewhere, rings
from jaxrl_llm.plan.view import fits

NEEDS_LIBTPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
BASE = """
workdir: run
model: {vocab_size: 40, d_model: 8, d_ff: 16, n_layers: 3, n_heads: 2, n_kv_heads: 1, context: 64}
"""
TEXT = BASE + "data: {path: x, length: 16}\ntraining: {steps: 10, batch_size: 8}\n"
PPO = BASE + (
    "algo: {kind: ppo}\ndata: {kind: prompts, path: x}\ninit_from: no\n"
    "rollout: {prompts: 16, max_new_tokens: 16, max_prompt_tokens: 16, "
    "rewards: {parts: {r: {kind: model, path: no}}}}\n"
    "training: {steps: 4, batch_size: 8, micro_batches: 1}\n"
)

# A loop of five turns: a sum nobody hides, and a gather of two arrays with work between its start and its done; after
# it an exchange whose two pieces, in two computations, are one.
MODULE = """HloModule test, num_partitions=4

%cond (c: (s32[], f32[8])) -> pred[] {
  %five = s32[] constant(5)
  %c = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%i, %five), direction=LT
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0} get-tuple-element(%b), index=1
  %sum = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %ag = ((f32[4], f32[8]), (f32[16], f32[32])) all-gather-start(%h, %sum), channel_id=2, replica_groups=[1,4]<=[4]
  %busy = f32[8]{0} fusion(%sum), kind=kLoop, calls=%nothing
  %done = f32[32]{0} all-gather-done(%ag)
  ROOT %out = (s32[], f32[8]) tuple(%i, %busy)
}

%first (p: bf16[4,2]) -> bf16[4,2] {
  %p = bf16[4,2] parameter(0)
  ROOT %a2a = bf16[4,2]{1,0} all-to-all(%p), channel_id=3, replica_groups=mesh['a'=2,'b'=2] {'a'}, chain_id="0"
}

%second (p: bf16[4,2]) -> bf16[4,2] {
  %p = bf16[4,2] parameter(0)
  ROOT %a2a.2 = bf16[4,2]{1,0} all-to-all(%p), channel_id=3, replica_groups=mesh['a'=2,'b'=2] {'a'}, chain_id="0"
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %loop = (s32[], f32[8]) while(%x), condition=%cond, body=%body
  %one = bf16[4,2]{1,0} fusion(%x), kind=kCustom, calls=%first
  %two = bf16[4,2]{1,0} fusion(%one), kind=kCustom, calls=%second
  ROOT %y = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def planned(tmp_path: Path, text: str, *overrides: str, devices: int = 1):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return make_plan(load(str(path), overrides), make_target(None, None, devices), Traces())


def test_collectives_of_a_module_by_hand() -> None:
    found = {c.kind: c for c in collectives(MODULE)}
    assert found["all-reduce"] == Collective("all-reduce", ("f32[8]",), 4, 5, 5 * 2 * 0.75 * 32, hidden=False)
    assert found["all-gather"] == Collective("all-gather", ("f32[32]", "f32[16]"), 4, 5, 5 * 0.75 * 192, hidden=True)
    assert found["all-to-all"] == Collective("all-to-all", ("bf16[4,2]",), 2, 1, 0.5 * 16, hidden=True)
    assert hidden_share(found.values()) == pytest.approx((720 + 8) / (240 + 720 + 8))
    assert sides_of("bf16[4,2]") == [4, 2]


def test_nothing_between_start_and_done_hides_nothing() -> None:
    lines = [line for line in MODULE.split("\n") if "%busy =" not in line]
    assert not {c.kind: c for c in collectives("\n".join(lines))}["all-gather"].hidden


def test_a_gathered_stack_is_found(tmp_path: Path) -> None:
    plan = planned(tmp_path, TEXT, devices=8)
    mesh = make_mesh(MeshConfig(), jax.devices()[:8])
    (step,) = compile_programs(plan)
    assert {c.kind for c in step.talk} >= {"all-gather"}
    assert whole_stacks(plan, step.talk) == []
    split, whole = NamedSharding(mesh, PartitionSpec(None, "fsdp")), NamedSharding(mesh, PartitionSpec())
    stack = jax.ShapeDtypeStruct((3, 8, 16), jnp.float32, sharding=split)  # of w_gate
    text = jax.jit(lambda w: w + 1, out_shardings=whole).lower(stack).compile().as_text()
    assert [c.shape for c in whole_stacks(plan, tuple(collectives(text or "")))] == ["f32[3,8,16]"]
    among = Collective(
        "all-gather", ("f32[8,100]", "f32[3,8,16]"), 8, 1, 1.0, hidden=False
    )  # gathered with a larger one
    as_large = replace(among, arrays=("f32[1,48,8]",))  # keys of a row, say
    assert whole_stacks(plan, (among, replace(among, kind="all-reduce"), as_large)) == [among]


def test_every_program_of_rollouts_is_compiled(tmp_path: Path) -> None:
    plan = planned(tmp_path, PPO, devices=8)
    found = {each.name: each for each in compile_programs(plan)}
    assert list(found) == ["lay out weights", "read prompts", "write tokens", "score: r", "prepare", "update"]
    resident = plan.of("resident").device
    assert found["write tokens"].beside == resident
    state = [line.size.device for line in plan.lines if line.phase == "resident" and line.role in ("policy", "value")]
    assert found["update"].beside >= resident - sum(state)
    assert all(each.arguments > 0 and each.refused is None for each in found.values())


def test_what_the_compiler_could_not_fit_is_named() -> None:
    program = Program("update", "update", lambda: None, beside=2**30)  # type: ignore[arg-type, return-value]
    words = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, temporaries (36.50G) exceeds available HBM (15.75G).\nmore"
    found = refused(program, 1.0, words)
    assert found.peak == int(36.5 * 2**30) + 2**30
    assert found.refused is not None
    assert found.refused.startswith("Ran out of memory on HBM")


def test_what_is_compiled_decides_whether_it_fits(tmp_path: Path) -> None:
    plan = planned(tmp_path, TEXT, devices=1)
    large = Compiled("update", "update", 1.0, 2**30, 2**30, 2**30, ())
    assert fits(plan, 2**30, [])
    assert not fits(plan, 2**30, [large])
    assert fits(plan, 3 * 2**30, [large])
    assert not fits(plan, 3 * 2**30, [replace(large, refused="Ran out of memory")])


def test_a_compiler_of_another_release_is_named() -> None:
    def failing() -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: no such field")

    program = Program("update", "update", failing, beside=0)  # type: ignore[arg-type]
    for platform, error in (("tpu", UserError), ("cpu", jax.errors.JaxRuntimeError)):
        devices = np.asarray([SimpleNamespace(platform=platform)])
        plan = SimpleNamespace(parts=SimpleNamespace(mesh=SimpleNamespace(devices=devices)))
        with patch("jaxrl_llm.plan.compiled.programs", return_value=[program]), pytest.raises(error) as raised:
            list(compile_programs(plan))  # type: ignore[arg-type]
        assert ("pip install" in str(raised.value)) == (platform == "tpu")


def test_the_roofline_by_hand(tmp_path: Path) -> None:
    chip = Chip("toy", bf16_flops=1e6, hbm_bytes=2**30, hbm_bandwidth=1e6, link_bandwidth=1e3)
    plan = planned(tmp_path, TEXT, "compute.dtype=bfloat16", "training.micro_batches=2", devices=1)
    found = make_roofline(plan, chip)
    tokens, n = 8 * 16, plan.parts.n_params
    by = found.seconds_by["update"]
    assert found.tokens == tokens
    assert by["compute"] == pytest.approx(plan.parts.flops_per_token(16) * tokens / 1e6)
    state = sum(line.size.device for line in plan.lines if line.phase == "resident")
    assert by["memory"] == pytest.approx((2 * 2 * 2 * n + 2 * state) / 1e6)  # pieces x forward and backward x bfloat16
    assert by["links"] == 0.0
    assert found.tokens_per_s == pytest.approx(tokens / max(by.values()))
    assert make_roofline(plan, chip, sent=5e3).seconds_by["update"]["links"] == 5.0


def test_remat_costs_a_third_more(tmp_path: Path) -> None:
    chip = Chip("toy", 1e6, 2**30, 1e6)
    none, full = (
        make_roofline(planned(tmp_path, TEXT, f"compute.remat={remat}"), chip).seconds_by["update"]
        for remat in ("none", "full")
    )
    assert full["compute"] == pytest.approx(4 / 3 * none["compute"])


def test_sampling_is_bound_by_weights_and_cache(tmp_path: Path) -> None:
    chip = Chip("toy", 1e12, 2**30, 1e6)
    plan = planned(tmp_path, PPO, "compute.dtype=bfloat16", "rollout.slots=8", devices=1)
    found = make_roofline(plan, chip)
    assert list(found.seconds_by) == ["sample", "prepare", "update", "score"]
    policy = sum(x.size for x in jax.tree.leaves(plan.parts.template.params["policy"]))
    cache = (
        2 * 3 * 8 * 64 * 1 * 4 * 2 + 4 * 8
    )  # keys and values, layers, slots, places, heads, channels, bytes; lengths
    assert found.seconds_by["sample"]["memory"] == pytest.approx(16 / 8 * 16 * (2 * policy + cache / 2) / 1e6)
    assert found.limit("sample") == "memory"


@pytest.mark.parametrize(
    "text", ["v5e:3x3", "v9:2x2", "v5e", "2xv5p:2x2", "0xv5e:4x4", "v5p:4x4x6", "v5p:4x4x40000", ""]
)
def test_an_unknown_topology_is_refused_with_the_list(text: str) -> None:
    with pytest.raises(UserError, match=r"no such slice(.|\n)*v5e: 1x1, 2x2(.|\n)*v5p: 2x2x1"):
        topology_target(text)


def test_without_libtpu_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax.experimental import topologies

    def missing(*args: object, **kwargs: object) -> SimpleNamespace:
        raise RuntimeError("libtpu.so: cannot open shared object file")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"cannot open(.|\n)*pip install 'jax\[tpu\]'"):
        topology_target("v5e:2x4")


def test_a_topology_excludes_other_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(TEXT)
    assert main(["plan", str(tmp_path / "c.yaml"), "--topology", "v5e:2x4", "--chip", "H100"]) == 2
    assert "leave out --chip" in capsys.readouterr().err


@NEEDS_LIBTPU
def test_a_slice_that_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(TEXT)
    words = ["plan", str(tmp_path / "c.yaml"), "--topology", "v5e:2x4", "--json", str(tmp_path / "plan.json")]
    assert main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "compiling `update`",
        "v5e:2x4, 8 x TPU v5e (fsdp 8)",
        "compiled, not run",
        "all-gather",
        "fits: peak",
        "by the roofline",
    ):
        assert text in out
    found = json.loads((tmp_path / "plan.json").read_text())
    (update,) = found["compiled"]
    assert update["stacks"] == 0
    assert update["talk"]
    assert found["roofline"]["tokens_per_s"] > 0
    assert main([*words, "--memory", "0.0001MiB"]) == 0
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chip", "sides", "closed"),
    [
        ("v5p", (4, 4, 8), (True, True, True)),
        ("v5p", (2, 4, 4), (False, False, False)),  # not of whole cubes
        ("v5e", (16, 16), (True, True, False)),
        ("v6e", (8, 16), (False, True, False)),
    ],
)
def test_links_close_a_ring_where_a_slice_is_as_long_as_a_pod(
    chip: str, sides: tuple[int, ...], closed: tuple[bool, ...]
) -> None:
    assert rings(chip, sides) == closed


@NEEDS_LIBTPU
def test_libtpu_knows_every_slice_that_is_listed() -> None:
    for chip, shapes in TOPOLOGIES.items():
        for shape in shapes:
            n = math.prod(int(side) for side in shape.split("x"))
            assert len(topology_target(f"{chip}:{shape}").devices) == n


@NEEDS_LIBTPU
def test_weights_are_gathered_around_closed_rings() -> None:
    """As they can be: a compiler that takes the slice for open adds up zeros and weights instead, twice the bytes."""
    mesh = make_mesh(MeshConfig(), topology_target("v5p:4x4x4").devices)
    split, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("fsdp", None))
    x = jax.ShapeDtypeStruct((4096, 1024), jnp.bfloat16, sharding=split)
    with elsewhere():
        text = jax.jit(lambda x: x + 1, out_shardings=whole).lower(x).compile().as_text()
    assert [found.kind for found in collectives(text)] == ["all-gather"]


@NEEDS_LIBTPU
def test_no_device_adds_up_the_whole_gradient_of_the_head(tmp_path: Path) -> None:
    """Over micro-batches: each adds its part of it."""
    (tmp_path / "c.yaml").write_text(TEXT)
    shape = ("model={vocab_size: 8192, d_model: 64}", "training={micro_batches: 4, batch_size: 64}")
    plan = make_plan(
        load(str(tmp_path / "c.yaml"), [*shape, "compute.layers=scan"]), topology_target("v5e:4x4"), Traces()
    )
    with elsewhere():
        (step,) = compile_programs(plan)
    (summed,) = [
        c for c in step.talk if c.kind in ("all-reduce", "reduce-scatter") and math.prod(sides_of(c.shape)) == 64 * 8192
    ]
    assert summed.times == 4


@NEEDS_LIBTPU
def test_two_slices_are_two_copies() -> None:
    target = topology_target("2xv5e:2x4")
    assert (len(target.devices), target.chip and target.chip.name) == (16, "TPU v5e")
    mesh = make_mesh(MeshConfig(data=2), target.devices)
    assert [{device.slice_index for device in row.flat} for row in mesh.devices] == [{0}, {1}]
