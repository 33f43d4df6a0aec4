"""Properties of the model that hold whatever the weights are."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.models import PRESETS, ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.models.attention import ATTENTION, choose_attention, splash, splash_blocks
from jaxrl_llm.models.heads import score_tokens, score_tokens_chunked
from jaxrl_llm.models.llama import flops_per_token, llama_specs
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import count_params, is_spec
from jaxrl_llm.types import Tokens

CONFIG = LlamaConfig(vocab_size=96, d_model=32, d_ff=48, n_layers=2, n_heads=4, n_kv_heads=2)
MESH = make_mesh(MeshConfig(), jax.devices()[:1])
T = 16


@pytest.fixture(scope="module")
def params() -> dict:
    return build_model(CONFIG, ComputeConfig(), MESH).init(jax.random.key(0))


def tokens(seed: int, n: int = 2) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (n, T)))


PARAMETERS = {
    "15m": 15_191_712,
    "150m": 148_264_704,
    "debug": 164_160,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama2-7b": 6_738_415_616,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "tinyllama-1.1b": 1_100_048_384,
}


def test_presets_have_the_published_sizes() -> None:
    assert {name: count_params(llama_specs(c)) for name, c in PRESETS.items()} == PARAMETERS


def test_flops_of_tinyllama_by_hand() -> None:
    # 6 x (all weights but the 32000 x 2048 input embedding) + 6 x 22 layers x 2048 x T
    assert flops_per_token(PRESETS["tinyllama-1.1b"], 2048) == 6 * (1_100_048_384 - 65_536_000) + 6 * 22 * 2048 * 2048


def test_no_position_depends_on_a_later_token(params: dict) -> None:
    """By gradient through the embeddings: d logits[t] / d input[s] is exactly 0 for s > t, and not for s <= t."""
    model = build_model(CONFIG, ComputeConfig(), MESH)
    row = jnp.arange(T)[None] + 5  # every token another one, so that its embedding row is its input alone

    def norm_at(table: jax.Array, t: int) -> jax.Array:
        return jnp.sum(jnp.square(model.logits({**params, "embed": table}, row)[0, t]))

    for t in (0, 7, T - 1):
        size_T = jnp.abs(jax.grad(norm_at)(params["embed"], t)).sum(-1)[row[0]]
        assert (size_T[t + 1 :] == 0).all()
        assert (size_T[: t + 1] > 0).all()


@pytest.mark.parametrize(
    "compute",
    [ComputeConfig(layers="unroll"), ComputeConfig(remat="full"), ComputeConfig(remat="dots", layers="unroll")],
    ids=["unroll", "remat", "unroll-dots"],
)
def test_how_it_is_computed_changes_neither_loss_nor_gradient(params: dict, compute: ComputeConfig) -> None:
    batch = plain_rows(tokens(1))

    def loss(compute: ComputeConfig) -> tuple[jax.Array, dict]:
        model = build_model(CONFIG, compute, MESH)
        return jax.jit(jax.value_and_grad(lambda p: -model.token_scores(p, batch).logp_BT.mean()))(params)

    (value, grads), (other, other_grads) = loss(ComputeConfig()), loss(compute)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), other_grads, grads)


def test_the_settings_do_what_they_say(params: dict) -> None:
    """remat saves memory, in the order none > dots > full; scan is one loop over the layers, unroll is none."""
    deep = dataclasses.replace(CONFIG, n_layers=6)
    batch = plain_rows(jnp.tile(tokens(1), (4, 8)))

    def compiled(compute: ComputeConfig) -> Any:
        model = build_model(deep, compute, MESH)
        weights = jax.eval_shape(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape), model.specs, is_leaf=is_spec))
        loss = lambda p: -model.token_scores(p, batch).logp_BT.mean()
        return jax.jit(jax.grad(loss)).lower(weights).compile()

    memory = {
        remat: compiled(ComputeConfig(remat=remat)).memory_analysis().temp_size_in_bytes  # type: ignore[arg-type]
        for remat in ("none", "dots", "full")
    }
    assert memory["none"] > memory["dots"] > memory["full"]
    loops = {layers: compiled(ComputeConfig(layers=layers)).as_text().count(" while(") for layers in ("scan", "unroll")}  # type: ignore[arg-type]
    assert loops["scan"] >= loops["unroll"] + 2  # forward and backward


def test_jit_equals_no_jit(params: dict) -> None:
    model = build_model(CONFIG, ComputeConfig(), MESH)
    with jax.disable_jit():
        plain = model.logits(params, tokens(2))
    np.testing.assert_allclose(jax.jit(model.logits)(params, tokens(2)), plain, atol=1e-5)


def plain_rows(tokens_BT: jnp.ndarray) -> Tokens:
    """Each row one document."""
    ones = jnp.ones_like(tokens_BT)
    positions = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    targets = jnp.roll(tokens_BT, -1, axis=1)
    return Tokens(tokens_BT, targets, ones.astype(jnp.float32), ones, positions)


def test_a_packed_row_equals_its_documents_and_they_never_meet(params: dict) -> None:
    model = build_model(CONFIG, ComputeConfig(), MESH)
    a, b = tokens(3, 1), tokens(4, 1)
    segments = jnp.repeat(jnp.asarray([[1, 2]]), T, axis=1)
    positions = jnp.concatenate([jnp.arange(T)] * 2)[None]
    run = jax.jit(model.logits)
    packed = run(params, jnp.concatenate([a, b], axis=1), segments, positions)
    np.testing.assert_allclose(packed[:, :T], run(params, a), atol=2e-6)
    np.testing.assert_allclose(packed[:, T:], run(params, b), atol=2e-6)
    changed = run(params, jnp.concatenate([(a + 1) % 96, b], axis=1), segments, positions)
    assert (changed[:, T:] == packed[:, T:]).all()  # exactly: not one bit of document A reaches document B
    assert not (changed[:, :T] == packed[:, :T]).all()


@pytest.mark.parametrize("window", [None, 5])
def test_cached_decoding_equals_the_full_forward_pass(params: dict, window: int | None) -> None:
    """Prompts of unequal length, padded; then one token at a time."""
    model = build_model(dataclasses.replace(CONFIG, sliding_window=window), ComputeConfig(), MESH)
    rows, lengths = tokens(5), jnp.asarray([9, 4])
    full = jax.jit(model.logits)(params, rows)
    weights = jax.jit(model.decoder.prepare)(params)
    logits_BV, cache = jax.jit(model.decoder.prefill)(weights, rows[:, :9], lengths)
    cache = jax.tree.map(lambda x: x if x.ndim == 1 else jnp.pad(x, ((0, 0), (0, T - 9), (0, 0), (0, 0))), cache)
    decode, active = jax.jit(model.decoder.decode), jnp.ones(2, bool)
    for i in range(6):
        want = full[jnp.arange(2), lengths + i - 1]
        np.testing.assert_allclose(logits_BV, want, atol=2e-6)
        logits_BV, cache = decode(weights, rows[jnp.arange(2), lengths + i], cache, active)


def test_chunked_scores_equal_whole_ones_and_the_formula() -> None:
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(2, 12, 8)).astype(np.float32), rng.normal(size=(8, 20)).astype(np.float32) / 3
    hidden, targets = jnp.asarray(hidden), jnp.asarray(rng.integers(0, 20, (2, 12)))
    logits = np.asarray(hidden, np.float64) @ head / 0.7
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for chunks in (1, 3, 5, 99):  # 5 does not divide 12: the last piece is filled up
        scores = score_tokens_chunked(hidden, head, targets, targets >= 0, 0.7, chunks)
        np.testing.assert_allclose(
            scores.logp_BT, np.log(np.take_along_axis(p, np.asarray(targets)[..., None], -1))[..., 0], atol=2e-6
        )
        np.testing.assert_allclose(scores.entropy_BT, -(p * np.log(p)).sum(-1), atol=1e-5)
        np.testing.assert_allclose(scores.logz_BT, np.log(np.exp(logits).sum(-1)), atol=1e-5)
    whole = jax.grad(lambda h: score_tokens(h, head, targets, 0.7).logp_BT.sum())(hidden)
    pieces = jax.grad(lambda h: score_tokens_chunked(h, head, targets, targets >= 0, 0.7, 4).logp_BT.sum())(hidden)
    np.testing.assert_allclose(pieces, whole, atol=2e-6)


def test_the_gradient_of_a_frequent_token_survives_bfloat16(params: dict) -> None:
    """Thousands of small terms are summed into one row of the table: in float32, whatever the compute dtype."""
    batch = plain_rows(jnp.where(jnp.arange(512 * T).reshape(512, T) % 8 == 0, jnp.tile(tokens(1), (256, 1)), 7))

    def gradient(dtype: Any) -> jax.Array:
        model = build_model(CONFIG, ComputeConfig(dtype=dtype), MESH)
        return jax.jit(jax.grad(lambda p: -model.token_scores(p, batch).logp_BT.mean()))(params)["embed"][7]

    want, got = gradient("float32"), gradient("bfloat16")
    assert jnp.linalg.norm(got - want) < 0.03 * jnp.linalg.norm(want)


def test_scores_never_hold_all_logits() -> None:
    """No buffer of the compiled gradient is as large as float32 [B, T, V]."""
    b, t, v = 2, 64, 4096
    hidden, head, targets = jnp.zeros((b, t, 8)), jnp.zeros((8, v)), jnp.zeros((b, t), jnp.int32)

    def temporary_bytes(chunks: int) -> int:
        loss = lambda h, w: score_tokens_chunked(h, w, targets, targets >= 0, 1.0, chunks).logp_BT.sum()
        return (
            jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, head).compile().memory_analysis().temp_size_in_bytes
        )

    assert temporary_bytes(1) >= b * t * v * 4
    assert temporary_bytes(16) < b * t * v * 4 / 2


@pytest.mark.parametrize("window", [None, 100])
def test_splash_equals_xla_with_segments(window: int | None) -> None:
    """The TPU kernel, interpreted, on a mesh whose tensor axis divides the query heads but not the KV heads."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, tensor=4))
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.normal(size=(2, 256, 4, 128)), jnp.float32)
    k, v = (jnp.asarray(rng.normal(size=(2, 256, 2, 128)), jnp.float32) for _ in range(2))
    segments = jnp.asarray(np.repeat([[1, 2, 2, 3], [1, 1, 1, 2]], 64, axis=1))
    for length in (256, 40):  # 40 is no whole tile
        rows = [x[:, :length] for x in (q, k, v, segments)]
        want = ATTENTION["xla"](*rows, None, window, mesh)
        got = splash(*rows, None, window, mesh, interpret=True)
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_attention_is_chosen_by_the_devices() -> None:
    assert choose_attention("auto", jnp.dtype("bfloat16"), 128, MESH) == "xla"  # a CPU
    for name in ("cudnn", "splash"):
        with pytest.raises(UserError, match="compute.attention=auto"):
            choose_attention(name, jnp.dtype("bfloat16"), 128, MESH)


def shared_prompt() -> tuple[Tokens, Tokens]:
    """A prompt of 6 and two answers of 4 and 5 in one row that share it; and as two rows, each a whole text."""
    ids = tokens(7, 1)[0]
    prompt, one, two = ids[:6], ids[6:10], ids[10:15]
    pad = lambda xs, n=0: jnp.pad(jnp.asarray(xs), (0, T - len(xs)), constant_values=n)[None]
    segments = pad([1] * 6 + [2] * 4 + [3] * 5)
    positions = pad([*range(6), *range(6, 10), *range(6, 11)])
    parents = pad([0] * 6 + [1] * 9)
    targets, weights = pad(ids[::-1][:15]), pad([0.0] * 6 + [1.0] * 9)
    row = Tokens(pad(ids[:15]), targets, weights, segments, positions, parents)
    rows = []
    for answer, here in ((one, slice(6, 10)), (two, slice(10, 15))):
        text = jnp.concatenate([prompt, answer])
        goals = jnp.concatenate([jnp.zeros(6, jnp.int32), targets[0, here]])
        ones = [1] * len(text)
        rows.append(Tokens(pad(text), pad(goals), pad([0.0] * 6 + ones[6:]), pad(ones), pad(jnp.arange(len(text)))))
    return row, jax.tree.map(lambda *xs: jnp.concatenate(xs), *rows)


def test_answers_that_share_a_prompt_equal_rows_of_their_own(params: dict) -> None:
    row, rows = shared_prompt()
    policy, reward = (build_model(CONFIG, ComputeConfig(), MESH, head) for head in ("lm", "scalar+safety"))
    heads = {name: jax.random.normal(jax.random.key(i), (32, 1)) for i, name in enumerate(("score", "safety"))}
    shared, own = (jax.jit(policy.token_scores)(params, each).logp_BT for each in (row, rows))
    np.testing.assert_allclose(shared[0, 6:10], own[0, 6:10], atol=1e-6)
    np.testing.assert_allclose(shared[0, 10:15], own[1, 6:11], atol=1e-6)
    assert (shared[0, :6] == 0).all()  # nobody trains the prompt, nor is it unembedded
    assert (shared[0, 15:] == 0).all()
    blind = dataclasses.replace(row, parents_BT=jnp.zeros_like(row.segments_BT))
    alone = jax.jit(policy.token_scores)(params, blind).logp_BT
    assert np.abs(alone[0, 6:15] - shared[0, 6:15]).max() > 1e-3  # what is shared is seen
    for name in heads:
        shared, own = (jax.jit(reward.values)(params | heads, each)[name] for each in (row, rows))
        np.testing.assert_allclose(shared[0, :10], own[0, :10], atol=2e-6)
        np.testing.assert_allclose(shared[0, 10:15], own[1, 6:11], atol=2e-6)


def test_positions_that_nobody_trains_cost_and_change_nothing(params: dict) -> None:
    """Their scores are 0 and no gradient comes through them; those of the others are what they were."""
    model, batch = build_model(CONFIG, ComputeConfig(loss_chunks=3), MESH), plain_rows(tokens(8))
    some = dataclasses.replace(batch, weights_BT=batch.weights_BT.at[0, 5:].set(0).at[1, ::2].set(0))
    trained = np.asarray(some.weights_BT) > 0

    def scores(p: dict, rows: Tokens) -> tuple[jax.Array, jax.Array]:
        logp_BT = model.token_scores(p, rows).logp_BT
        return logp_BT.sum(), logp_BT

    grad_of = jax.jit(jax.grad(scores, has_aux=True))
    (grads, logp_BT), (_, all_BT) = grad_of(params, some), grad_of(params, batch)
    np.testing.assert_allclose(logp_BT[trained], all_BT[trained], atol=1e-6)
    assert (logp_BT[~trained] == 0).all()
    masked = jax.jit(jax.grad(lambda p: (model.token_scores(p, batch).logp_BT * some.weights_BT).sum()))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), grads, masked)


def test_heads_that_cudnn_does_not_take() -> None:
    """On a description of a GPU: `auto` goes around them, a named cudnn says so."""
    gpu: Any = SimpleNamespace(devices=np.asarray([SimpleNamespace(platform="gpu")]))
    bf16 = jnp.dtype("bfloat16")
    assert [choose_attention("auto", bf16, channels, gpu) for channels in (64, 128, 12, 256)] == [
        *["cudnn"] * 2,
        *["xla"] * 2,
    ]
    with pytest.raises(UserError, match="a multiple of 8 channels, at most 128; here: 12"):
        choose_attention("cudnn", bf16, 12, gpu)


@pytest.mark.parametrize(("length", "kernel"), [(16, "cudnn"), (15, "xla")])
def test_masks_of_odd_length_go_around_cudnn(length: int, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *_, implementation, **__: asked.append(implementation))
    row = jnp.zeros((1, length, 2, 8))
    ATTENTION["cudnn"](row, row, row, jnp.ones((1, length), jnp.int32), None, None, MESH)
    ATTENTION["cudnn"](row, row, row, None, None, None, MESH)  # no mask: cuDNN's own causal one
    assert asked == [kernel, "cudnn"]


def test_splash_blocks_are_as_large_as_divide_the_rows() -> None:
    blocks = splash_blocks(256, 1024)
    assert {blocks[name] for name in ("block_q", "block_q_dkv", "block_q_dq")} == {256}
    assert {size for name, size in blocks.items() if "kv" in name and "_q_" not in name} == {512}
    assert splash_blocks(128, 384)["block_kv"] == 128
