"""Scores of answers: a reward model's, or the log-probabilities that a language model gives them.

Texts of like length are scored together, in rows of a few lengths, so that few programs are compiled.  What else is in
a batch, and how far a row is filled up, does not change a score.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.data.chat import Template, tokenize_turns
from jaxrl_llm.data.examples import Answer, Message
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES
from jaxrl_llm.types import Model, Params, Tokens

SHORTEST = 64  # tokens of a row at least

# (params, tokens_BT, written_BT, lengths_B) -> float32 [B]
RowScorer = Callable[[Params, Array, Array, Array], Array]


class Text(NamedTuple):
    """A prompt with an answer, as tokens.

    Row of "Who?" answered "Goethe", after which the template writes a line break:

        ids      <bos> W h o ? \n G o e t h e <eos> \n
        written  0 ............. 1 .............. 1 0
    """

    ids: np.ndarray  # int32 [n]
    written: np.ndarray  # bool [n]: the assistant wrote it, and it is of the answer
    n_prompt: int  # how many of them come before the answer


def tokenize_answer(prompt: Sequence[Message], answer: Answer, tokenizer: Tokenizer, template: Template) -> Text:
    """The tokens of a prompt with an answer, as training has them; an answer may be several messages.

    Raises:
        UserError: the template refuses the conversation, or leaves the answer out of it.
    """
    messages = [*prompt, *answer]
    said = [n for n in range(len(prompt), len(messages)) if messages[n]["role"] == "assistant"]
    ids, turns = tokenize_turns(tokenizer, template, messages, said)
    end = 1 + max(n for n, turn in enumerate(turns) if turn is not None)
    ids, turns = ids[:end], turns[:end]
    return Text(np.asarray(ids, np.int32), np.asarray([turn is not None for turn in turns]), turns.index(said[0]))


def fit(texts: Iterable[Text], max_length: int, bos_id: int) -> list[Text]:
    """The texts, those that are longer than `max_length` cut as for training.

    They lose the start of their prompt, but BOS; all answers to a prompt lose as much of it, or they would be compared
    for different prompts.  Of the prompt half of `max_length` stays, and what then does not fit is the answer's end.
    """
    texts = list(texts)
    prompts = [text.ids[: text.n_prompt].tobytes() for text in texts]
    longest: dict[bytes, int] = defaultdict(int)  # of the answers to each prompt
    for text, prompt in zip(texts, prompts, strict=True):
        longest[prompt] = max(longest[prompt], len(text.ids) - text.n_prompt)
    fitted = []
    for text, prompt in zip(texts, prompts, strict=True):
        kept = min(text.n_prompt, max(max_length - longest[prompt], (max_length + 1) // 2))
        begin = int(text.ids[0] == bos_id)  # BOS is the first of them
        keep = np.r_[0:begin, text.n_prompt - kept + begin : len(text.ids)][:max_length]
        fitted.append(Text(text.ids[keep], text.written[keep], kept))
    return fitted


def reward_scorer(model: Model) -> RowScorer:
    """The raw score of a reward model, read at each row's last token."""

    def scores(params: Params, tokens_BT: Array, written_BT: Array, lengths_B: Array) -> Array:
        return model.score(params, tokens_BT, lengths_B)

    return scores


def logp_scorer(model: Model) -> RowScorer:
    """The summed log-probability of the tokens that the assistant wrote, in nats."""

    def scores(params: Params, tokens_BT: Array, written_BT: Array, lengths_B: Array) -> Array:
        following = [jnp.pad(x_BT[:, 1:], ((0, 0), (0, 1))) for x_BT in (tokens_BT, written_BT)]
        targets_BT, weights_BT = following[0], following[1].astype(jnp.float32)
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        rows = Tokens(tokens_BT, targets_BT, weights_BT, None, positions_BT)
        logp_BT = model.token_scores(params, rows).logp_BT
        return jnp.sum(jnp.where(weights_BT > 0, logp_BT, 0.0), axis=1)

    return scores


def text_scorer(
    scorer: RowScorer, mesh: Mesh, batch_size: int, lengths: Sequence[int] | None = None
) -> Callable[..., np.ndarray]:
    """`score(params, texts)`: float32 [N], the score of each text, on every process; compiled once a length of rows.

    Texts may be in any order.  The longest are scored first, so that memory that is too small shows at once.  Of its
    further argument `on_scored(n)` it tells how many more tokens are done.  It raises UserError where a score is not a
    finite number.

    Args:
        scorer: what is read off a row.
        mesh: that the params will lie on.
        batch_size: rows at a time, rounded up to what the devices divide.
        lengths: of rows, where the same are to be used for other texts; see `row_lengths`; None: by the longest text.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    size = -(-batch_size // ways) * ways
    by_row, whole = (NamedSharding(mesh, PartitionSpec(axes)) for axes in (BATCH_AXES, None))
    run = jax.jit(scorer, out_shardings=whole)

    def score(
        params: Params, texts: Sequence[Text], on_scored: Callable[[int], object] = lambda n_tokens: None
    ) -> np.ndarray:
        found = np.zeros(len(texts), np.float32)
        for members, *rows in _batches(texts, size, lengths):
            arrays = [jax.make_array_from_callback(x.shape, by_row, x.__getitem__) for x in rows]
            found[members] = np.asarray(run(params, *arrays))[: len(members)]
            on_scored(sum(len(texts[i].ids) for i in members))
        return refuse_infinite(found)

    return score


def refuse_infinite(scores: np.ndarray) -> np.ndarray:
    """The scores.  Raises UserError where one is not a finite number."""
    if wrong := int((~np.isfinite(scores)).sum()):
        raise UserError(
            f"{wrong:,} of {len(scores):,} scores are not finite numbers: the model's weights are broken, or its "
            "training diverged\n  mend: an earlier checkpoint, as RUN/checkpoints/STEP"
        )
    return scores


def _batches(
    texts: Sequence[Text], size: int, lengths: Sequence[int] | None
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray, np.ndarray]]:
    """Which texts, and their tokens_BT, written_BT and lengths_B; what is scored together depends on `texts` alone."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
    lengths = row_lengths(len(texts[order[0]].ids)) if lengths is None and order else lengths
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        length = next(each for each in lengths or () if each >= len(texts[chosen[0]].ids))
        tokens_BT, written_BT = np.zeros((size, length), np.int32), np.zeros((size, length), bool)
        lengths_B = np.ones(size, np.int32)
        for row, i in enumerate(chosen):
            n = lengths_B[row] = len(texts[i].ids)
            tokens_BT[row, :n], written_BT[row, :n] = texts[i].ids, texts[i].written
        yield chosen, tokens_BT, written_BT, lengths_B


def row_lengths(longest: int, *more: int) -> list[int]:
    """The lengths that rows have: powers of two, more that are asked for, and last the longest text's, by eights."""
    powers = (1 << power for power in range(SHORTEST.bit_length() - 1, longest.bit_length()))
    last = max(SHORTEST, -(-longest // 8) * 8)
    return sorted({each for each in (*powers, *more) if each < last} | {last})
