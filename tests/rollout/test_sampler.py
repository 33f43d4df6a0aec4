"""The sampler writes what the model says, whatever slot, batch mate or device it is on."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.rollout.sampler import Completion, Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.types import Tokens

CONFIG = LlamaConfig(vocab_size=64, context=128, d_model=32, d_ff=48, n_layers=2, n_heads=8, n_kv_heads=4)
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
EOS = 7
PROMPTS = [[1, 2, 3], [9], list(range(20, 41)), [5] * 16, [1, 2, 3], [60, 61]]
LONGEST = 24


def build(mesh=ONE, dtype="float32", config=CONFIG):
    model = build_model(config, ComputeConfig(dtype=dtype), mesh)
    params = model.init(jax.random.key(0))
    return model, {**params, "unembed": 15 * params["unembed"]}  # peaked enough to end now and then


def sampler_of(model, mesh=ONE, config=SamplingConfig(), slots=3, **options) -> Sampler:  # noqa: B008
    return Sampler(model, mesh, config, stop_ids=[EOS], context=128, slots=slots, **options)


def trainer_logp(model, params, prompt: Sequence[int], completion: Completion, temperature: float) -> np.ndarray:
    """token_scores of the completion's tokens in one full forward pass."""
    ids = np.asarray([*prompt, *completion.tokens], np.int32)
    row = lambda x: jnp.asarray(np.pad(x, (0, 63 - len(x)))[None])
    ones = row(np.ones(len(ids) - 1, np.int32))
    batch = Tokens(row(ids[:-1]), row(ids[1:]), ones.astype(jnp.float32), ones, jnp.arange(63)[None])
    logp_BT = jax.jit(model.token_scores)(params, batch, temperature).logp_BT
    return np.asarray(logp_BT[0, len(prompt) - 1 : len(ids) - 1])


@pytest.fixture(scope="module")
def one():
    return build()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_the_trainers(one, temperature: float) -> None:
    """Padded prompts, refilled slots, n completions a prompt: the sampler's figure is token_scores' to 1e-5."""
    model, params = one
    found, stats = sampler_of(model, config=SamplingConfig(temperature=temperature))(
        params, PROMPTS, n=3, max_new_tokens=LONGEST, seed=1
    )
    assert stats.prefills == len(PROMPTS)  # each prompt was run once, not n times
    assert stats.completions == 18
    lengths = {len(c.tokens) for completions in found for c in completions}
    assert min(lengths) < LONGEST  # slots did end at different times and were filled again
    for prompt, completions in zip(PROMPTS, found, strict=True):
        for completion in completions:
            want = trainer_logp(model, params, prompt, completion, temperature)
            np.testing.assert_allclose(completion.logp, want, atol=1e-5)
            plain = trainer_logp(model, params, prompt, completion, 1.0)
            np.testing.assert_allclose(completion.plain_logp, plain, atol=1e-5)
            assert completion.ended == (completion.tokens[-1] == EOS)
            assert EOS not in completion.tokens[:-1]
            assert completion.ended or len(completion.tokens) == LONGEST


def test_many_completions_of_one_prompt_cost_one_row_of_prefill(one) -> None:
    model, params = one
    _, stats = sampler_of(model, slots=8)(params, [PROMPTS[2]], n=16, max_new_tokens=4, seed=0)
    assert (stats.completions, stats.prefills, stats.prefill_rows) == (16, 1, 1)


def test_calls_of_one_room_run_the_same_programs(one) -> None:
    """However many of their prompts are long, and however long."""
    model, params = one
    traced: list[tuple[int, ...]] = []

    def prefill(weights, tokens_PT, lengths_P):
        traced.append(tokens_PT.shape)
        return model.decoder.prefill(weights, tokens_PT, lengths_P)

    def decode(weights, tokens_B, cache, active_B):
        traced.append(cache.keys[0].shape[:2])
        return model.decoder.decode(weights, tokens_B, cache, active_B)

    decoder = dataclasses.replace(model.decoder, prefill=prefill, decode=decode)
    sampler = sampler_of(dataclasses.replace(model, decoder=decoder), cache_step=8)
    for lengths in ([3, 3, 3, 20, 20], [9, 17, 31, 32, 18], [16, 16, 16, 16, 16], [1, 1, 1, 1, 30]):
        prompts = [list(range(3, 3 + length)) for length in lengths]
        _, stats = sampler(params, prompts, max_new_tokens=4, seed=0, room=36)
        assert stats.prefills == 5
    assert sorted(traced) == [(3, 16), (3, 32), (3, 40)]


def test_the_same_on_a_mesh_of_eight(one) -> None:
    model, params = one
    found, _ = sampler_of(model, slots=4)(params, PROMPTS, n=2, max_new_tokens=LONGEST, seed=1)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    model_8, params_8 = build(mesh)
    found_8, _ = sampler_of(model_8, mesh, slots=4)(params_8, PROMPTS, n=2, max_new_tokens=LONGEST, seed=1)
    for completions, completions_8 in zip(found, found_8, strict=True):
        for a, b in zip(completions, completions_8, strict=True):
            assert a.tokens == b.tokens
            np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)


def test_a_completion_does_not_depend_on_its_mates(one) -> None:
    """Bit for bit at the same slots and cache: alone, among others, in a slot that was used before."""
    model, params = one
    sampler = sampler_of(model)
    everyone, _ = sampler(params, PROMPTS, n=2, max_new_tokens=LONGEST, seed=4)
    others = [[50] * len(prompt) for prompt in PROMPTS]
    others[2] = PROMPTS[2]
    alone, _ = sampler(params, others, n=2, max_new_tokens=LONGEST, seed=4)
    for a, b in zip(everyone[2], alone[2], strict=True):
        assert a.tokens == b.tokens
        assert a.logp.tobytes() == b.logp.tobytes()
    assert everyone[0][0].tokens != everyone[0][1].tokens
    assert everyone[0][0].tokens != everyone[4][0].tokens  # the same prompt at another place is another sample
    again, _ = sampler(params, PROMPTS, n=2, max_new_tokens=LONGEST, seed=5)
    assert [c.tokens for c in again[2]] != [c.tokens for c in everyone[2]]


def test_greedy_is_the_argmax_of_the_full_forward_pass(one) -> None:
    model, params = one
    found, _ = sampler_of(model, config=SamplingConfig(temperature=0.0))(params, PROMPTS, max_new_tokens=8, seed=0)
    for prompt, (completion,) in zip(PROMPTS, found, strict=True):
        ids = np.asarray([*prompt, *completion.tokens])
        best = jax.jit(model.logits)(params, np.pad(ids, (0, 40 - len(ids)))[None]).argmax(-1)[0]
        assert completion.tokens == best[len(prompt) - 1 : len(ids) - 1].tolist()


def test_bfloat16_stays_close_to_the_trainer(one) -> None:
    """Mean absolute difference of probabilities below .005."""
    model, params = build(dtype="bfloat16")
    found, _ = sampler_of(model)(params, PROMPTS, n=2, max_new_tokens=LONGEST, seed=1)
    differences = [
        np.abs(np.exp(c.logp) - np.exp(trainer_logp(model, params, prompt, c, 1.0)))
        for prompt, completions in zip(PROMPTS, found, strict=True)
        for c in completions
    ]
    assert np.concatenate(differences).mean() < 0.005


def test_refilling_beats_waiting_for_the_longest(one) -> None:
    """Lengths differ; counted in steps of all slots, not in seconds."""
    model, params = one
    steps = {}
    for refill in (True, False):
        sampler = sampler_of(model, slots=4, refill=refill)
        found, stats = sampler(params, PROMPTS, n=8, max_new_tokens=100, seed=2)
        steps[refill] = stats.slot_steps
        assert stats.tokens == sum(len(c.tokens) for completions in found for c in completions)
        assert stats.occupancy == stats.tokens / stats.slot_steps
    assert steps[True] < steps[False]


def test_stop_strings_cut_after_the_token_that_completes_them(one) -> None:
    model, params = one
    letters = "".join(chr(97 + i % 26) for i in range(64))
    to_text = lambda ids: "".join(letters[i] for i in ids)
    plain, _ = sampler_of(model)(params, PROMPTS, max_new_tokens=LONGEST, seed=1)
    stop = to_text(plain[2][0].tokens)[3:5]
    found, _ = sampler_of(model, stop_strings=[stop], to_text=to_text)(params, PROMPTS, max_new_tokens=LONGEST, seed=1)
    for (cut,), (whole,) in zip(found, plain, strict=True):
        text = to_text(whole.tokens)
        end = text.find(stop) + len(stop) if stop in text else len(text)
        assert cut.tokens == whole.tokens[:end]
        assert len(cut.logp) == end
    assert found[2][0].ended


def test_penalty_reads_prompt_and_completion(one) -> None:
    """Greedy with a huge penalty never repeats, neither itself nor its prompt."""
    model, params = one
    config = SamplingConfig(temperature=0.0, repetition_penalty=1e6)
    found, _ = sampler_of(model, config=config)(params, PROMPTS, max_new_tokens=10, seed=0)
    for prompt, (completion,) in zip(PROMPTS, found, strict=True):
        assert len({*prompt, *completion.tokens}) == len({*prompt}) + len(completion.tokens)


def test_weights_and_cache_are_split_over_eight_devices() -> None:
    """Bytes a device <= 1.1 x total / 8, on fsdp=8; neither heads nor KV heads need divide."""
    mesh = make_mesh(MeshConfig(fsdp=8))
    model, params = build(mesh, config=dataclasses.replace(CONFIG, d_ff=64))
    weights = jax.jit(model.decoder.prepare)(params)
    cache = jax.jit(model.decoder.empty_cache, static_argnums=(0, 1))(16, 64)
    matrices = [leaf for leaf in jax.tree.leaves(weights) if leaf.ndim > 1]  # a norm's scale is whole everywhere
    for tree in (matrices, (cache.keys, cache.values)):
        leaves = jax.tree.leaves(tree)
        device = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        assert device <= 1.1 * sum(leaf.nbytes for leaf in leaves) / 8


def test_prompts_that_cannot_be_are_named(one) -> None:
    model, params = one
    with pytest.raises(UserError, match="prompt 2 is empty"):
        sampler_of(model)(params, [[1], []], max_new_tokens=4, seed=0)
    with pytest.raises(UserError, match="exceeds the model's context of 128"):
        sampler_of(model)(params, [[1] * 120], max_new_tokens=9, seed=0)


def test_progress_and_watch_see_the_tokens_come(one) -> None:
    model, params = one
    seen: dict[tuple[int, int], list[int]] = {}
    grown = []

    def watch(prompt: int, sample: int, tokens: list[int]) -> None:
        before = seen.get((prompt, sample), [])
        assert tokens[: len(before)] == before
        seen[prompt, sample] = tokens

    found, _ = sampler_of(model, slots=2)(
        params, PROMPTS[:3], max_new_tokens=40, seed=3, watch=watch, progress=lambda s: grown.append(s.tokens)
    )
    assert seen == {(i, 0): c[0].tokens for i, c in enumerate(found)}
    assert grown == sorted(grown)
    assert len(grown) > 2
