"""Scores are those of each text alone, whatever is beside and after it; texts are cut as training cuts them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.data.chat import Template, find_template, tokenize_chat
from jaxrl_llm.data.encode import Encoder
from jaxrl_llm.data.examples import Comparison, Message
from jaxrl_llm.data.sequences import Encoded
from jaxrl_llm.data.tokenizers import BytesTokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.score import Text, fit, logp_scorer, reward_scorer, row_lengths, text_scorer, tokenize_answer
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.types import Head

CONFIG = LlamaConfig(vocab_size=264, d_model=32, d_ff=48, n_layers=2, n_heads=4, n_kv_heads=2)
TOKENIZER = BytesTokenizer()
ONE, EIGHT = (make_mesh(MeshConfig(), devices) for devices in (jax.devices()[:1], None))
PROMPT: list[Message] = [
    {"role": "user", "content": "Who wrote Faust?"},
    {"role": "assistant", "content": "Goethe."},
    {"role": "user", "content": "And Emma?"},
]


@pytest.fixture(scope="module")
def template() -> Template:
    return find_template(TOKENIZER, "chatml")


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    """Of many lengths, with answers of many lengths."""
    rng = np.random.default_rng(0)
    found = []
    for n in (100, 3, 65, 3, 65, 100, 3, 3, 100):
        n_prompt = int(rng.integers(1, n))
        found.append(Text(rng.integers(0, 256, n).astype(np.int32), np.arange(n) >= n_prompt, n_prompt))
    return found


def answer(text: str) -> tuple[Message, ...]:
    return ({"role": "assistant", "content": text},)


@pytest.mark.parametrize("head", ["scalar", "lm"])
def test_scores_are_those_of_each_text_alone(head: Head, texts: list[Text]) -> None:
    model = build_model(CONFIG, ComputeConfig(), ONE, head)
    params = model.init(jax.random.key(0))

    score, logits = jax.jit(model.score), jax.jit(model.logits)

    def alone(text: Text) -> float:
        row = jnp.asarray(text.ids)[None]
        if head == "scalar":
            return float(score(params, row, jnp.asarray([len(text.ids)]))[0])
        logp = np.asarray(jax.nn.log_softmax(logits(params, row)[0, :-1]))
        return float(sum(logp[t, text.ids[t + 1]] for t in range(len(logp)) if text.written[t + 1]))

    expected = [alone(text) for text in texts]
    assert np.std(expected) > 0.01
    make = reward_scorer if head == "scalar" else logp_scorer
    tolerance = 1e-5 if head == "scalar" else 1e-3  # a sum of hundreds of nats
    done: list[int] = []
    found = text_scorer(make(model), ONE, 3)(params, texts, done.append)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert sum(done) == sum(len(text.ids) for text in texts)
    among_others = text_scorer(make(model), ONE, 3, [128, 256])(params, texts[2:])
    np.testing.assert_allclose(among_others, expected[2:], rtol=0, atol=tolerance)


def test_scores_of_eight_devices_are_those_of_one(texts: list[Text]) -> None:
    one, eight = (build_model(CONFIG, ComputeConfig(), mesh, "scalar") for mesh in (ONE, EIGHT))
    expected = text_scorer(reward_scorer(one), ONE, 3)(one.init(jax.random.key(0)), texts)
    found = text_scorer(reward_scorer(eight), EIGHT, 3)(eight.init(jax.random.key(0)), texts)  # 3 rows become 8
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_few_shapes() -> None:
    assert row_lengths(2) == [64]
    assert row_lengths(100) == [64, 104]
    assert row_lengths(128) == row_lengths(127) == [64, 128]
    assert row_lengths(2000) == [64, 128, 256, 512, 1024, 2000]
    assert row_lengths(512, 320, 576) == [64, 128, 256, 320, 512]


def test_broken_scores_are_told(texts: list[Text]) -> None:
    with pytest.raises(UserError, match="9 of 9 scores are not finite"):
        text_scorer(lambda params, tokens, written, lengths: lengths * jnp.nan, ONE, 4)(None, texts)


def test_only_the_answer_is_scored(template: Template) -> None:
    text = tokenize_answer(PROMPT, answer("Austen."), TOKENIZER, template)
    whole = tokenize_chat(TOKENIZER, template, [*PROMPT, *answer("Austen.")]).ids
    assert text.ids.tolist() == whole[: len(text.ids)]
    assert text.ids[-1] == TOKENIZER.eos_id  # and nothing that the template writes after it
    austen, yes = ([*TOKENIZER.encode(said), TOKENIZER.eos_id] for said in ("Austen.", "Yes."))
    assert text.ids[text.written].tolist() == austen
    assert text.written[: text.n_prompt].sum() == 0
    assert text.written[text.n_prompt]
    more = (*answer("Austen."), {"role": "user", "content": "Sure?"}, *answer("Yes."))
    several = tokenize_answer(PROMPT, more, TOKENIZER, template)
    assert several.ids[several.written].tolist() == [*austen, *yes]
    assert several.n_prompt == text.n_prompt
    empty = tokenize_answer(PROMPT, answer(""), TOKENIZER, template)
    assert empty.ids[empty.written].tolist() == [TOKENIZER.eos_id]


@pytest.mark.parametrize("max_length", [20, 61, 100, 140, 160, 400])
def test_texts_are_cut_as_for_training(max_length: int, template: Template) -> None:
    said = [answer("Jane Austen."), answer("Nobody knows that, " * 3)]
    whole = [tokenize_answer(PROMPT, each, TOKENIZER, template) for each in said]
    other = tokenize_answer(PROMPT[:1], answer("Goethe " * 30), TOKENIZER, template)  # of another prompt
    texts = fit([whole[0], other, whole[1]], max_length, TOKENIZER.bos_id)[::2]
    encoded = Encoder(TOKENIZER, template, max_length)(Comparison(tuple(PROMPT), tuple(said), (0, 1), "here"))
    assert isinstance(encoded, Encoded)
    for text, (ids, weights) in zip(texts, encoded.answers, strict=True):
        assert text.ids[: text.n_prompt].tolist() == list(encoded.prompt)
        assert text.ids[text.n_prompt :].tolist() == list(ids)
        assert text.written[text.n_prompt :].tolist() == [weight > 0 for weight in weights]
        assert len(text.ids) <= max_length
        assert text.ids[0] == TOKENIZER.bos_id
