"""Training only named parts: what is trained, what is fixed, and what the backward pass does not do."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from jaxrl_llm.errors import UserError
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.models.llama import flops_per_token
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.models.trainable import AllConfig, PartsConfig, TrainableConfig, build_trainable, chosen_layers
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import count_params, map_specs, shardings
from jaxrl_llm.training.optim import MuonConfig, init_opt_state, make_optimizer, optimizer_shardings
from jaxrl_llm.training.state import merge
from jaxrl_llm.types import Model, Params, Tokens

CONFIG = LlamaConfig(vocab_size=96, d_model=32, d_ff=48, n_layers=6, n_heads=4, n_kv_heads=2)
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
EIGHT = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
B, T = 8, 16
LAYER = 32 * (4 * 8 + 2 * 2 * 8) + 4 * 8 * 32 + 3 * 32 * 48 + 2 * 32  # weights of one layer
EMBED = 96 * 32


def rows() -> Tokens:
    ids = jnp.asarray(np.random.default_rng(1).integers(0, CONFIG.vocab_size, (B, T), dtype=np.int32))
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    return Tokens(ids, jnp.roll(ids, -1, axis=1), jnp.ones((B, T)), jnp.ones_like(ids), positions)


def weights_of(model: Model, mesh: Any) -> Params:
    """Random weights that take no compiling."""
    rng = np.random.default_rng(0)
    one = lambda s: np.float32(rng.standard_normal(s.shape) * 0.2 + ("norm" in s.axes))
    return jax.device_put(map_specs(one, model.specs), shardings(model.specs, mesh))


CASES = {  # parts -> trained keys, fixed keys, trained parameters by hand
    "last 2": (PartsConfig(layers="last 2"), {"layers@4"}, {"layers@0", "embed", "final_norm", "unembed"}, 2 * LAYER),
    "first 3": (
        PartsConfig(layers="first 3", embed=True),
        {"embed", "layers@0"},
        {"layers@3", "final_norm", "unembed"},
        3 * LAYER + EMBED,
    ),
    "2:3": (
        PartsConfig(layers="2:3", final_norm=True),
        {"layers@2", "final_norm"},
        {"layers@0", "layers@3", "embed", "unembed"},
        LAYER + 32,
    ),
    "all layers": (PartsConfig(layers="last 6"), {"layers"}, {"embed", "final_norm", "unembed"}, 6 * LAYER),
    "head": (PartsConfig(head=True), {"unembed"}, {"layers", "embed", "final_norm"}, EMBED),
}
cases = pytest.mark.parametrize("name", CASES)


@cases
def test_what_is_trained_and_what_is_fixed(name: str) -> None:
    """On eight devices; divided and put together again it is what it was, and one device never held it whole."""
    config, trained_keys, fixed_keys, size = CASES[name]
    model = build_model(CONFIG, ComputeConfig(), EIGHT)
    trainable = build_trainable(config, model.specs, EIGHT)
    assert (set(trainable.specs), set(trainable.fixed_specs)) == (trained_keys, fixed_keys)
    assert count_params(trainable.specs) == size
    assert count_params(trainable.specs) + count_params(trainable.fixed_specs) == count_params(model.specs)

    plain = weights_of(model, EIGHT)
    trained, fixed = trainable.split(plain, jax.random.key(1))
    for half, specs in ((trained, trainable.specs), (fixed, trainable.fixed_specs)):
        assert map_specs(lambda spec: spec.shape, specs) == jax.tree.map(jnp.shape, half)
        assert shardings(specs, EIGHT) == jax.tree.map(lambda w: w.sharding, half)
    jax.tree.map(np.testing.assert_array_equal, trainable.fixed(plain), fixed)
    joined = trainable.join(trained, fixed)
    jax.tree.map(np.testing.assert_array_equal, joined, plain)
    assert jax.tree.map(lambda w: w.sharding, joined) == jax.tree.map(lambda w: w.sharding, plain)


def test_all_is_the_identity() -> None:
    model = build_model(CONFIG, ComputeConfig(), ONE)
    trainable = build_trainable(AllConfig(), model.specs, ONE)
    plain = weights_of(model, ONE)
    trained, fixed = trainable.split(plain, jax.random.key(1))
    assert trained is plain
    assert fixed == {} == trainable.fixed(plain) == trainable.fixed_specs
    assert trainable.join(trained, fixed) is plain
    assert trainable.specs is model.specs


def loss_of(model: Model, params: Params) -> jax.Array:
    return jnp.square(model.logits(params, rows().inputs_BT)).mean()


@pytest.fixture(scope="module")
def whole() -> Any:
    """Everything trained, on one device: model, weights, loss and gradients."""
    model = build_model(CONFIG, ComputeConfig(), ONE)
    plain = weights_of(model, ONE)
    return model, plain, jax.jit(jax.value_and_grad(lambda p: loss_of(model, p)))(plain)


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_gradients_of_parts_are_those_of_the_whole(layers: Any, whole: Any) -> None:
    """The same loss, and the same gradient where there is one, as when everything is trained."""
    full, plain, want = whole
    model = build_model(CONFIG, ComputeConfig(layers=layers, remat="dots"), EIGHT)
    trainable = build_trainable(PartsConfig(layers="2:4", embed=True, head=True), model.specs, EIGHT)
    trained, fixed = trainable.split(weights_of(model, EIGHT), jax.random.key(1))
    value, grads = jax.jit(jax.value_and_grad(lambda p, f: loss_of(model, merge(p, f))))(trained, fixed)
    np.testing.assert_allclose(value, want[0], rtol=1e-5)
    assert set(grads) == {"layers@2", "embed", "unembed"}
    expected = {
        "layers@2": jax.tree.map(lambda g: g[2:4], want[1]["layers"]),
        "embed": want[1]["embed"],
        "unembed": want[1]["unembed"],
    }
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
    jax.tree.map(close, jax.device_get(grads), jax.device_get(expected))

    prepared = [jax.jit(m.decoder.prepare)(p) for m, p in ((model, merge(trained, fixed)), (full, plain))]
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get(prepared))


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_the_backward_pass_ends_at_the_lowest_trained_layer(layers: Any) -> None:
    model = build_model(CONFIG, ComputeConfig(layers=layers), ONE)
    shapes = lambda specs: map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, "float32"), specs)

    def loss(params: Params, fixed: Params) -> jax.Array:
        return -model.token_scores(merge(params, fixed), rows()).logp_BT.mean()

    def backward_products(config: Any) -> int:
        """Products of the gradient beyond those of the loss, a scan counted once a layer."""
        trainable = build_trainable(config, model.specs, ONE)
        args = shapes(trainable.specs), shapes(trainable.fixed_specs)
        return products(jax.make_jaxpr(jax.grad(loss))(*args).jaxpr) - products(jax.make_jaxpr(loss)(*args).jaxpr)

    # A layer's backward pass: two products for each of its 7 weights, and for each of attention's 2 own.
    head = backward_products(PartsConfig(head=True, final_norm=True))
    for k in (1, 2, 5):
        count = backward_products(PartsConfig(layers=f"last {k}", head=True)) - head
        assert count == 18 * k, k
    assert backward_products(AllConfig()) - head == 18 * 6
    # Fixed layers above a trained one give their activations' gradients alone.
    assert backward_products(PartsConfig(layers="0:1", head=True)) - head == 18 + 5 * (18 - 7)


def products(jaxpr: Any) -> int:
    """Matrix products of a jaxpr, those of a scan as often as it turns."""
    total = 0
    for eqn in jaxpr.eqns:
        total += eqn.primitive.name == "dot_general"
        inner = [p for value in eqn.params.values() for p in (value if isinstance(value, tuple | list) else (value,))]
        counts = [products(getattr(p, "jaxpr", p)) for p in inner if hasattr(getattr(p, "jaxpr", p), "eqns")]
        turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += turns * (max(counts, default=0) if eqn.primitive.name == "cond" else sum(counts))
    return total


def test_flops_of_parts_by_hand() -> None:
    flops = lambda config: build_model(CONFIG, ComputeConfig(), ONE).flops_per_token(
        T, build_trainable(config, build_model(CONFIG, ComputeConfig(), ONE).specs, ONE).specs
    )
    top, attention = 32 + EMBED, 4 * 8 * T
    assert flops(AllConfig()) == flops_per_token(CONFIG, T) == 6 * (6 * LAYER + top) + 6 * 6 * attention
    assert flops(PartsConfig(layers="last 2")) == (
        2 * (6 * LAYER + top) + 2 * (2 * LAYER + top) + 2 * 2 * LAYER + (6 * 2 + 2 * 4) * attention
    )
    assert flops(PartsConfig(head=True)) == 2 * (6 * LAYER + top) + 2 * EMBED + 6 * 2 * attention
    assert flops(PartsConfig(embed=True)) == 4 * (6 * LAYER + top) + 6 * 6 * attention


@pytest.mark.parametrize("config", [PartsConfig(layers="1:4", head=True), LoraConfig(rank=8)], ids=lambda c: c.kind)
def test_muon_takes_halves_of_a_model(config: Any) -> None:
    """Three layers, and ranks that are split, over eight devices: the same update as on one."""
    updates = []
    for mesh in (ONE, make_mesh(MeshConfig(fsdp=8))):
        model = build_model(CONFIG, ComputeConfig(), mesh)
        trainable = build_trainable(config, model.specs, mesh)
        specs, where = {"policy": trainable.specs}, shardings({"policy": trainable.specs}, mesh)
        tx = make_optimizer(MuonConfig(), lambda step: jnp.float32(0.1), specs, mesh)
        rng = np.random.default_rng(0)
        params, grads = (
            jax.device_put(map_specs(lambda s: np.float32(rng.standard_normal(s.shape)), specs), where)  # noqa: B023
            for _ in range(2)
        )
        state = init_opt_state(tx, params, optimizer_shardings(tx, params, where, mesh))
        update = jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p, step=jnp.int32(0))[0])
        updates.append(jax.device_get(update(grads, state, params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *updates)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, range(0)),
        ("all", range(12)),
        ("last 2", range(10, 12)),
        ("first 3", range(3)),
        ("4:8", range(4, 8)),
        ("last 12", range(12)),
    ],
)
def test_layers_by_name(text: str | None, found: range) -> None:
    assert chosen_layers(text, 12) == found


@pytest.mark.parametrize("text", ["last 13", "first 13", "4:13", "8:4", "4:4", "last 0", "12:14"])
def test_layers_that_are_not_there(text: str) -> None:
    with pytest.raises(UserError, match=rf"trainable.layers='{text}': the model has 12 layers, 0 to 11"):
        chosen_layers(text, 12)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "parts"}, "selects nothing to train"),
        ({"kind": "parts", "layers": "top 2"}, "expected `last 2`, `first 3`, `4:8`, `all` or null"),
        ({"kind": "parts", "layers": "4:"}, "expected `last 2`"),
        ({"kind": "lora", "targets": ["wq", "wq"]}, "names a weight twice: wq, wq"),
        ({"kind": "lora", "targets": []}, "at least 1 item"),
        ({"kind": "lora", "targets": ["q_proj"]}, "Input should be 'wq', 'wk'"),
        ({"kind": "lora", "dropout": 1.0}, "less than 1"),
    ],
    ids=str,
)
def test_config_that_makes_no_sense(raw: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(TrainableConfig).validate_json(json.dumps(raw))


def test_the_head_of_tied_embeddings_is_the_embedding() -> None:
    tied = LlamaConfig(tie_embeddings=True)
    specs = build_model(tied, ComputeConfig(), ONE).specs
    with pytest.raises(UserError, match=r"trainable.head=true: .*\n  mend: trainable.embed=true"):
        build_trainable(PartsConfig(head=True), specs, ONE)
    assert set(build_trainable(PartsConfig(embed=True), specs, ONE).specs) == {"embed"}
    reward = build_model(tied, ComputeConfig(), ONE, "scalar+safety").specs
    assert set(build_trainable(PartsConfig(head=True), reward, ONE).specs) == {"score", "safety"}
