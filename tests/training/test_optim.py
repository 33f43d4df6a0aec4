"""Optimizers against plain NumPy, group by group and device by device."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import ParamSpec, init_params, map_specs, normal, ones, shardings, zeros
from jaxrl_llm.training.optim import (
    AdamwConfig,
    MuonConfig,
    clip_by_role,
    gradient_norms,
    init_opt_state,
    is_decayed,
    make_optimizer,
    muon_dimensions,
    optimizer_shardings,
)
from jaxrl_llm.training.schedules import LinearConfig, make_schedule

L, D, H, K, C, F, V = 3, 16, 4, 2, 8, 24, 40
SPECS = {
    "policy": {
        "embedding": ParamSpec((V, D), ("vocab", "embed"), normal(0.02)),
        "layers": {
            "attention_norm": ParamSpec((L, D), ("layers", "embed"), ones),
            "wq": ParamSpec((L, D, H, C), ("layers", "embed", "heads", "channels"), normal(0.02), ("embed",)),
            "bq": ParamSpec((L, H, C), ("layers", "heads", "channels"), zeros),
            "wk": ParamSpec((L, D, K, C), ("layers", "embed", "kv_heads", "channels"), normal(0.02), ("embed",)),
            "wo": ParamSpec(
                (L, H, C, D), ("layers", "heads", "channels", "embed"), normal(0.02), ("heads", "channels")
            ),
            "w_up": ParamSpec((L, D, F), ("layers", "embed", "mlp"), normal(0.02), ("embed",)),
            "w_down": ParamSpec((L, F, D), ("layers", "mlp", "embed"), normal(0.02), ("mlp",)),
        },
        "final_norm": ParamSpec((D,), ("embed",), ones),
        "head": ParamSpec((D, V), ("embed", "vocab"), normal(0.02), ("embed",)),
    },
    "value": {"score": ParamSpec((D, 1), ("embed", "score"), zeros, ("embed",))},
}
MUON = {"wq", "wk", "wo", "w_up", "w_down"}
UNDECAYED = {"attention_norm", "bq", "final_norm"}
ONE = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
both = pytest.mark.parametrize("config", [AdamwConfig(), MuonConfig()], ids=lambda c: c.kind)


def normals(seed: int, scale: float = 1.0, specs: Any = SPECS) -> Any:
    rng = np.random.default_rng(seed)
    return map_specs(lambda s: jnp.asarray(scale * rng.standard_normal(s.shape), jnp.float32), specs)


def by_name(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    return {path[-1].key: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)}


def constant(rate: float) -> Any:
    return lambda step: jnp.float32(rate)


def direction(config: Any, grads: Any, mesh: Any = ONE, specs: Any = SPECS) -> Any:
    """One update at rate 1 of weights that are 0: minus the direction."""
    tx = make_optimizer(config, constant(1.0), specs, mesh)
    zero = jax.tree.map(jnp.zeros_like, grads)
    return jax.jit(lambda g: tx.update(g, tx.init(zero), zero, step=jnp.int32(0))[0])(grads)


def test_each_leafs_group() -> None:
    groups = by_name(map_specs(lambda s: "muon" if muon_dimensions(s) else "adamw", SPECS))
    assert groups == {name: "muon" if name in MUON else "adamw" for name in groups}
    assert set(groups) == MUON | UNDECAYED | {"embedding", "head", "score"}
    decayed = by_name(map_specs(is_decayed, SPECS))
    assert decayed == {name: name not in UNDECAYED for name in groups}


def test_muon_reads_rows_and_columns_from_the_spec() -> None:
    specs = SPECS["policy"]["layers"]
    assert muon_dimensions(specs["wq"]) == ((1,), (2, 3))
    assert muon_dimensions(specs["wo"]) == ((1, 2), (3,))
    assert muon_dimensions(ParamSpec((D, F), ("embed", "mlp"), zeros, ("embed",))) == ((0,), (1,))


def test_adamw_against_numpy() -> None:
    """Five steps with clipping, decay mask and a falling rate, beside the textbook loop in float64."""
    config = AdamwConfig(b1=0.8, b2=0.9, eps=1e-5, weight_decay=0.3, clip=2.0)
    schedule = make_schedule(LinearConfig(lr=0.1, warmup=0.4), 5)
    tx = make_optimizer(config, schedule, SPECS, ONE)
    params = normals(0)
    state = tx.init(params)
    update = jax.jit(lambda g, s, p, step: tx.update(g, s, p, step=step))

    w = {name: np.float64(leaf) for name, leaf in by_name(params).items()}
    m, v = ({name: np.zeros_like(leaf) for name, leaf in w.items()} for _ in range(2))
    for step, rate in enumerate([0.05, 0.1, 0.1, 0.1 * 2 / 3, 0.1 / 3]):
        grads = normals(1 + step, scale=0.1 if step == 2 else 1.0)  # the third is quiet: below the clip for `value`
        updates, state = update(grads, state, params, jnp.int32(step))
        params = optax.apply_updates(params, updates)

        for tree in grads.values():
            g = {name: np.float64(leaf) for name, leaf in by_name(tree).items()}
            norm = np.sqrt(sum((leaf**2).sum() for leaf in g.values()))
            for name in g:
                clipped = g[name] * min(1.0, config.clip / norm)
                m[name] = 0.8 * m[name] + 0.2 * clipped
                v[name] = 0.9 * v[name] + 0.1 * clipped**2
                adam = m[name] / (1 - 0.8 ** (step + 1)) / (np.sqrt(v[name] / (1 - 0.9 ** (step + 1))) + 1e-5)
                w[name] = w[name] - rate * (adam + (0.0 if name in UNDECAYED else 0.3) * w[name])
    for name, leaf in by_name(params).items():
        np.testing.assert_allclose(leaf, w[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_muon_decays_and_takes_the_rate_from_the_step() -> None:
    """Without a gradient only the decay acts, by the rate of the given step, whatever the state has seen before."""
    tx = make_optimizer(MuonConfig(weight_decay=0.5), lambda step: 0.1 * step, SPECS, ONE)
    params = normals(0)
    state = tx.init(params)
    updates = jax.jit(lambda g, p: tx.update(g, state, p, step=jnp.int32(3))[0])(
        jax.tree.map(jnp.zeros_like, params), params
    )
    for name, leaf in by_name(updates).items():
        expected = 0.0 if name in UNDECAYED else -0.15 * by_name(params)[name]
        np.testing.assert_allclose(leaf, jnp.broadcast_to(expected, leaf.shape), rtol=1e-6, err_msg=name)


def test_muon_orthogonalises_each_layers_matrix() -> None:
    """Singular values near .2·sqrt(longer side) each, so the root mean square is near .2 for every shape."""
    updates = by_name(direction(MuonConfig(), normals(0)))
    shapes = {"wq": (D, H * C), "wk": (D, K * C), "wo": (H * C, D), "w_up": (D, F), "w_down": (F, D)}
    for name, shape in shapes.items():
        for layer in np.asarray(updates[name]).reshape(L, *shape):
            values = np.linalg.svd(layer, compute_uv=False) / (0.2 * np.sqrt(max(shape)))
            assert 0.3 < values.min() <= values.max() < 1.6, (name, values)
            assert 0.14 < np.sqrt((layer**2).mean()) < 0.26, name
    assert np.abs(updates["head"]).min() > 0.99  # Adam's first step: the sign of the gradient


def test_muon_of_a_stack_is_muon_of_each_layer() -> None:
    """Two steps, so that the momentum counts; the layers differ much in size, which must not show in the others."""
    grads = [jax.tree.map(lambda g: g * jnp.array([1.0, 30.0, 0.01]).reshape(L, *[1] * (g.ndim - 1)), g)
             for g in (normals(s, specs=SPECS["policy"]["layers"]) for s in (1, 2))]  # fmt: skip
    config = MuonConfig(clip=None, weight_decay=0.0)

    def second_update(specs: Any, grads: list[Any]) -> Any:
        tx = make_optimizer(config, constant(1.0), {"policy": specs}, ONE)

        @jax.jit
        def two(first: Any, second: Any) -> Any:
            state = tx.update({"policy": first}, tx.init({"policy": first}), {"policy": first}, step=jnp.int32(0))[1]
            return tx.update({"policy": second}, state, {"policy": second}, step=jnp.int32(1))[0]["policy"]

        return two(*grads)

    stacked = {k: v for k, v in SPECS["policy"]["layers"].items() if k in MUON}
    grads = [{k: g[k] for k in stacked} for g in grads]
    whole = second_update(stacked, grads)
    single = map_specs(lambda s: ParamSpec(s.shape[1:], s.axes[1:], s.init, s.inputs), stacked)
    for layer in range(L):
        alone = second_update(single, [{k: g[k][layer] for k in g} for g in grads])
        for name in stacked:
            np.testing.assert_allclose(whole[name][layer], alone[name], rtol=1e-4, atol=1e-5, err_msg=f"{name} {layer}")


def test_muon_follows_the_momentum_of_jordan() -> None:
    """Nesterov momentum by hand: β(βg1 + g2) + g2 has the same orthogonal factor, up to the iteration's slack."""
    spec = {"policy": {"w": ParamSpec((6, 9), ("embed", "mlp"), zeros, ("embed",))}}
    g1, g2 = (normals(s, specs=spec) for s in (1, 2))
    tx = make_optimizer(MuonConfig(momentum=0.5, clip=None, weight_decay=0.0, ns_steps=5), constant(1.0), spec, ONE)
    state = tx.update(g1, tx.init(g1), g1, step=jnp.int32(0))[1]
    got = -np.asarray(tx.update(g2, state, g2, step=jnp.int32(1))[0]["policy"]["w"])
    u, _, vt = np.linalg.svd(0.25 * g1["policy"]["w"] + 1.5 * g2["policy"]["w"], full_matrices=False)
    rotated = u.T @ got @ vt.T / (0.2 * 3)  # diagonal, with entries of the iteration's singular values
    np.testing.assert_allclose(rotated - np.diag(np.diag(rotated)), 0, atol=1e-5)
    assert 0.6 < np.diag(rotated).min() <= np.diag(rotated).max() < 1.3


def test_each_role_is_clipped_by_its_own_norm() -> None:
    grads = {"policy": {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}, "value": {"a": jnp.array([0.6, 0.8])}}
    norms = gradient_norms(grads)
    assert {k: round(float(v), 5) for k, v in norms.items()} == {
        "grad_norm": round(26**0.5, 5),
        "grad_norm/policy": 5.0,
        "grad_norm/value": 1.0,
    }
    assert list(gradient_norms({"policy": grads["policy"]})) == ["grad_norm"]
    assert all(v.dtype == jnp.float32 for v in norms.values())

    clipped, _ = clip_by_role(2.0).update(grads, optax.EmptyState())
    np.testing.assert_allclose(clipped["policy"]["a"], [1.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["policy"]["b"], [1.6], rtol=1e-6)
    np.testing.assert_allclose(clipped["value"]["a"], [0.6, 0.8], rtol=1e-6)  # quiet, and not shrunk for the loud one


# As a model of 22 layers on 8 devices: neither the layers nor the heads divide the devices.
WIDE = {
    "policy": {
        "embedding": ParamSpec((256, 64), ("vocab", "embed"), normal(0.02)),
        "norm": ParamSpec((6, 64), ("layers", "embed"), ones),
        "wq": ParamSpec((6, 64, 2, 32), ("layers", "embed", "heads", "channels"), normal(0.02), ("embed",)),
        "w_down": ParamSpec((6, 96, 64), ("layers", "mlp", "embed"), normal(0.02), ("mlp",)),
    }
}


@both
def test_state_is_split_over_the_devices(config: Any) -> None:
    mesh = make_mesh(MeshConfig(fsdp=8))
    params = init_params(WIDE, jax.random.key(0), mesh)
    tx = make_optimizer(config, constant(0.1), WIDE, mesh)
    places = optimizer_shardings(tx, jax.eval_shape(lambda: params), shardings(WIDE, mesh), mesh)
    state = init_opt_state(tx, params, places)

    moments = 2 if config.kind == "adamw" else 1
    weights = by_name(params)
    muon_size = weights["wq"].size + weights["w_down"].size
    expected = 4 * (moments * muon_size + 2 * (weights["embedding"].size + weights["norm"].size))
    leaves = jax.tree.leaves(state)
    total = sum(leaf.nbytes for leaf in leaves)
    assert expected <= total <= expected + 16  # and Adam's counter
    for device in mesh.devices.flat:
        held = sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards if s.device == device)
        assert held <= 1.1 * total / 8


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_sharded_muon_is_muon_and_gathers_no_stack(shape: tuple[int, int, int]) -> None:
    mesh = make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    tx = make_optimizer(MuonConfig(), constant(0.1), WIDE, mesh)
    grads, params = normals(1, specs=WIDE), normals(2, specs=WIDE)
    split = shardings(WIDE, mesh)
    places = optimizer_shardings(tx, params, split, mesh)
    state = init_opt_state(tx, params, places)
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, step=jnp.int32(0)), in_shardings=(split, places, split),
                     out_shardings=(split, places)).lower(grads, state, params).compile()  # fmt: skip
    updates, _ = update(*jax.device_put((grads, state, params), (split, places, split)))
    alone = make_optimizer(MuonConfig(), constant(0.1), WIDE, ONE)
    expected = jax.jit(lambda g, p: alone.update(g, alone.init(p), p, step=jnp.int32(0))[0])(grads, params)
    for name, leaf in by_name(updates).items():
        np.testing.assert_allclose(leaf, by_name(expected)[name], rtol=1e-4, atol=1e-6, err_msg=name)

    # Larger than one layer's largest matrix, one would be a gather of several layers.
    text = update.as_text()
    assert "all-to-all" in text
    gathered = [
        np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"f32\[([\d,]+)\]\S* all-gather", text)
    ]
    assert max(gathered, default=0) <= 96 * 64
