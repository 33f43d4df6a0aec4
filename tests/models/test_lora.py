"""Adapters: what they add, what they leave alone, and where the randomness of their dropout comes from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.models.lora import TARGETS, LoraConfig, _drop
from jaxrl_llm.models.trainable import build_trainable
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import count_params, map_specs, shardings
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.config import CheckpointConfig
from jaxrl_llm.training.optim import is_decayed, muon_dimensions
from jaxrl_llm.training.state import merge
from jaxrl_llm.types import Head, Model, Params, Tokens, TrainState

CONFIG = LlamaConfig(vocab_size=96, d_model=32, d_ff=48, n_layers=2, n_heads=4, n_kv_heads=2)
LORA = LoraConfig(rank=8, alpha=12.0)
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
UNROLL = ComputeConfig(layers="unroll")
B, T = 8, 12


def rows(seeds: Any = None) -> Tokens:
    ids = jnp.asarray(np.random.default_rng(1).integers(0, CONFIG.vocab_size, (B, T), dtype=np.int32))
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    weights = jnp.ones((B, T), jnp.float32)
    seeds = None if seeds is None else jnp.asarray(seeds, jnp.uint32)
    return Tokens(ids, jnp.roll(ids, -1, axis=1), weights, jnp.ones_like(ids), positions, seeds_B=seeds)


def build(
    lora: LoraConfig = LORA,
    mesh: Any = ONE,
    head: Head = "lm",
    compute: ComputeConfig = ComputeConfig(),  # noqa: B008
) -> tuple[Model, Any]:
    model = build_model(CONFIG, compute, mesh, head, lora)
    return model, build_trainable(lora, model.specs, mesh)


def weights_of(model: Model, mesh: Any = ONE) -> Params:
    """Random weights that take no compiling."""
    rng = np.random.default_rng(0)
    one = lambda s: np.float32(rng.standard_normal(s.shape) * 0.2 + ("norm" in s.axes))
    return jax.device_put(map_specs(one, model.specs), shardings(model.specs, mesh))


def stirred(trained: Params) -> Params:
    """Adapters as after some training: B is not zero any more."""
    rng = np.random.default_rng(5)
    change = {name: 0.1 * rng.standard_normal(trained["layers"][name].shape) for name in sorted(trained["layers"])}
    one = lambda w, by: jax.device_put(np.float32(w + by), w.sharding)
    return {**trained, "layers": jax.tree.map(one, trained["layers"], change)}


def scores(model: Model, params: Params, tokens: Tokens) -> np.ndarray:
    return np.asarray(jax.jit(lambda p, t: model.values(p, t)["score"])(params, tokens))


def test_fresh_adapters_change_nothing_and_stirred_ones_are_their_sum_with_the_base() -> None:
    """Exactly the base; then W + scale A B to rounding, as one matrix and beside it, in the decoder too."""
    model, trainable = build()
    base = build_model(CONFIG, ComputeConfig(), ONE)
    plain = weights_of(model)
    trained, fixed = trainable.split(plain, jax.random.key(1))
    assert all(fixed["layers"][name] is plain["layers"][name] for name in plain["layers"])  # no copy

    def logits(model: Model, params: Params) -> np.ndarray:
        return np.asarray(jax.jit(model.logits)(params, rows().inputs_BT))

    want = logits(base, plain)
    np.testing.assert_array_equal(logits(model, merge(trained, fixed)), want)
    np.testing.assert_array_equal(logits(model, fixed), want)  # and without adapters: the reference

    trained = stirred(trained)
    joined = trainable.join(trained, fixed)
    a, b = (np.asarray(trained["layers"][f"wo.{part}"], np.float64) for part in "ab")
    product = 12.0 / 8 * np.einsum("lhcr,lrd->lhcd", a, b)
    np.testing.assert_allclose(joined["layers"]["wo"], plain["layers"]["wo"] + product, atol=1e-6)
    assert joined["layers"].keys() == plain["layers"].keys()
    got = logits(model, merge(trained, fixed))
    np.testing.assert_allclose(got, logits(base, joined), atol=2e-5)
    assert np.abs(got - want).max() > 0.1

    prompt, lengths = rows().inputs_BT[:2], jnp.asarray([T, 7])

    def after_prompt(model: Model, params: Params) -> np.ndarray:
        run = jax.jit(lambda p: model.decoder.prefill(model.decoder.prepare(p), prompt, lengths)[0])
        return np.asarray(run(params))

    written = after_prompt(model, merge(trained, fixed)), after_prompt(base, joined)
    np.testing.assert_allclose(*written, atol=1e-5)


def test_counts_by_hand_and_groups_of_the_optimizer() -> None:
    _, trainable = build(LoraConfig(rank=8, targets=("wq", "wv", "wo", "w_down")), head="scalar+safety")
    layers = trainable.specs["layers"]
    by_hand = 2 * 8 * ((32 + 4 * 8) + (32 + 2 * 8) + (4 * 8 + 32) + (48 + 32))  # layers x rank x (inputs + outputs)
    assert count_params(layers) == by_hand
    assert set(trainable.specs) == {"layers", "score", "safety"}  # the heads are trained whole
    assert "score" not in trainable.fixed_specs
    assert count_params(trainable.specs) == by_hand + 2 * 32
    assert layers["wo.a"].shape == (2, 4, 8, 8)
    assert layers["wo.b"].axes == ("layers", "rank_by_embed", "embed")
    assert all(jax.tree.leaves(map_specs(is_decayed, layers)))
    assert muon_dimensions(layers["wq.a"]) == ((1,), (2,))
    assert muon_dimensions(layers["wq.b"]) == ((1,), (2, 3))
    assert muon_dimensions(layers["wo.a"]) == ((1, 2), (3,))


def test_a_starts_random_and_b_zero_with_another_key_another_a() -> None:
    model, trainable = build()
    plain = weights_of(model)
    (one, _), (two, _) = (trainable.split(plain, jax.random.key(seed)) for seed in (1, 2))
    assert all((one["layers"][f"{name}.b"] == 0).all() for name in TARGETS)
    a = np.asarray(one["layers"]["w_down.a"])
    np.testing.assert_allclose(a.std(), (3 * 48) ** -0.5, rtol=0.1)
    assert not np.array_equal(a, two["layers"]["w_down.a"])


def test_scan_unroll_and_meshes_agree() -> None:
    """Values and gradients of what is trained, with the same dropout mask however the work is divided."""
    lora, tokens = dataclasses.replace(LORA, dropout=0.3), rows(np.arange(B) + 7)

    def run(mesh: Any, compute: ComputeConfig) -> Any:
        model, trainable = build(lora, mesh, "scalar", compute)
        trained, fixed = trainable.split(weights_of(model, mesh), jax.random.key(1))
        trained = stirred(trained)
        loss = lambda p, f, t: jnp.square(model.values(merge(p, f), t)["score"]).mean()
        value, grads = jax.jit(jax.value_and_grad(loss))(trained, fixed, tokens)
        return jax.device_get((value, grads, trainable.join(trained, fixed)))

    want = run(ONE, ComputeConfig())
    assert want[1].keys() == {"layers", "score"}
    assert want[1]["layers"].keys() == {f"{name}.{part}" for name in TARGETS for part in "ab"}
    assert all(np.abs(g).max() > 1e-6 for g in want[1]["layers"].values())
    others = [
        run(make_mesh(MeshConfig(fsdp=8)), ComputeConfig()),
        run(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), ComputeConfig(layers="unroll", remat="dots")),
    ]
    for got in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)


def test_dropout_is_of_the_row_and_only_while_training() -> None:
    lora = dataclasses.replace(LORA, dropout=0.5)
    model, trainable = build(lora, head="scalar")
    trained, fixed = trainable.split(weights_of(model), jax.random.key(1))
    params = merge(stirred(trained), fixed)
    off = scores(model, params, rows())
    np.testing.assert_array_equal(off, scores(build(head="scalar")[0], params, rows()))  # no seeds: as without dropout
    seeds = np.arange(B)
    on = scores(model, params, rows(seeds))
    assert (np.abs(on - off).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(scores(model, params, rows(seeds)), on)
    assert (np.abs(scores(model, params, rows(seeds + B)) - on).max(axis=1) > 1e-3).all()
    turned = jax.tree.map(lambda x: x[::-1], rows(seeds))
    mates_changed = dataclasses.replace(turned, inputs_BT=turned.inputs_BT.at[1:].set(3))
    np.testing.assert_allclose(scores(model, params, mates_changed)[0], on[-1], atol=1e-6)
    base = fixed | {"score": trained["score"]}
    np.testing.assert_array_equal(scores(model, base, rows(seeds)), scores(model, base, rows()))


def test_every_layer_and_target_drops_by_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    model, trainable = build(dataclasses.replace(LORA, dropout=0.5), head="scalar", compute=UNROLL)
    calls = []
    drop = lambda x, rate, seeds_B, layer, target: calls.append((layer, target)) or _drop(x, rate, seeds_B, layer, 0)
    monkeypatch.setattr("jaxrl_llm.models.lora._drop", drop)
    specs = merge(trainable.specs, trainable.fixed_specs)
    shapes = map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, "float32"), specs)
    jax.eval_shape(model.values, shapes, rows(np.arange(B)))
    assert sorted(calls) == [(layer, target) for layer in range(2) for target in range(len(TARGETS))]


def test_dropout_keeps_the_mean_and_differs_by_layer_and_target() -> None:
    x, seeds = jnp.ones((4, 50, 64)), jnp.arange(4, dtype=jnp.uint32)
    masks = {(layer, target): np.asarray(_drop(x, 0.25, seeds, layer, target)) for layer in (0, 1) for target in (0, 1)}
    for mask in masks.values():
        assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.75)}
        np.testing.assert_allclose(mask.mean(axis=(1, 2)), 1.0, atol=0.04)
    flat = np.stack([mask.reshape(-1) for mask in masks.values()])
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.05


def test_no_gradient_of_a_whole_matrix_is_made() -> None:
    """The step holds nothing of the base's gradient: its FLOPs are those of forward, activations and adapters."""
    model, trainable = build(LoraConfig(rank=1), compute=ComputeConfig(layers="unroll", loss_chunks=1))
    specs = map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, "float32"), model.specs)
    adapters = map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, "float32"), trainable.specs)

    def loss(params: Params, fixed: Params) -> jax.Array:
        return -model.token_scores(merge(params, fixed), rows()).logp_BT.mean()

    def flops(fn: Any, *args: Any) -> float:
        return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]

    forward = flops(loss, adapters, specs)
    adapted = flops(jax.grad(loss), adapters, specs)
    whole = flops(jax.grad(lambda p: loss(p, {})), specs)
    layers = 2 * B * T * count_params(model.specs["layers"])
    assert whole - adapted > 0.75 * layers  # what one weight gradient of all layers costs
    assert adapted > forward + 0.75 * layers  # the activations' gradients are there

    length = 16
    per_layer, top = count_params(model.specs["layers"]), 32 + 32 * 96
    n_adapters, attention = count_params(trainable.specs), 6 * 2 * 4 * 8 * length
    assert model.flops_per_token(length, trainable.specs) == 4 * (per_layer + top) + 6 * n_adapters + attention


def test_every_device_holds_its_share() -> None:
    mesh = make_mesh(MeshConfig(fsdp=8))
    wide = dataclasses.replace(CONFIG, d_model=64, d_ff=192, n_layers=4)
    model = build_model(wide, ComputeConfig(), mesh, lora=LORA)
    trainable = build_trainable(LORA, model.specs, mesh)
    trained, fixed = trainable.split(weights_of(model, mesh), jax.random.key(1))
    for tree in (trained, merge(trained, fixed), trainable.join(trained, fixed)):
        leaves = jax.tree.leaves(tree)
        for device in mesh.devices.flat:
            held = sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards if s.device == device)
            assert held <= 1.1 * sum(leaf.nbytes for leaf in leaves) / 8


def test_a_checkpoint_gives_them_back(tmp_path: Any) -> None:
    """Names with dots in them, and stacks with numbers, are names like others."""
    model, trainable = build(head="scalar")
    trained, _ = trainable.split(weights_of(model), jax.random.key(1))
    state = TrainState(step=jnp.int32(3), params={"reward": stirred(trained)}, fixed={}, opt_state={})
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    checkpoints.save(state, ({}, {}), {})
    checkpoints.wait()
    got = checkpoints.restore_item(3, "params", state.params)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, got, state.params)
