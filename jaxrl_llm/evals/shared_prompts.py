"""Scores of several answers to each prompt, the prompt read once: what `score.text_scorer` gives, to rounding.

A prompt and its answers lie in rows as those of preference data do; see `data.group_packing`.  An answer that is there
twice is read once.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.data.group_packing import GroupPacker, PackedAnswers
from jaxrl_llm.data.groups import Groups
from jaxrl_llm.evals.score import Text, refuse_infinite
from jaxrl_llm.parallel.mesh import BATCH_AXES
from jaxrl_llm.types import Model, Params, Tokens

SHORTEST = 128  # tokens of a row at least
ANSWERS = 3  # of the longest, that a row has room for with their prompt: longer rows would mostly attend to nothing
ARRAYS = ("inputs_BT", "segments_BT", "positions_BT", "parents_BT")


def shared_scorer(model: Model, mesh: Mesh, batch_size: int) -> Callable[[Params, Sequence[Text]], np.ndarray]:
    """`score(params, texts)`: float32 [N], the raw score of each text, on every process.

    Texts with one prompt need not stand together.  It compiles once for each length of rows, of which there are few.

    Args:
        model: with a scalar head, and no sliding window.
        mesh: that the params will lie on.
        batch_size: texts at a time, about.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    by_row, whole = (NamedSharding(mesh, PartitionSpec(axes)) for axes in (BATCH_AXES, None))

    def values(params: Params, inputs_BT: Array, *layout: Array) -> Array:
        nothing_BT = jnp.zeros(inputs_BT.shape, jnp.int32)
        segments_BT, positions_BT, parents_BT = layout
        tokens = Tokens(inputs_BT, nothing_BT, nothing_BT, segments_BT, positions_BT, parents_BT)
        return model.values(params, tokens)["score"]

    run = jax.jit(values, out_shardings=whole)

    def score(params: Params, texts: Sequence[Text]) -> np.ndarray:
        if not texts:
            return np.zeros(0, np.float32)
        groups, number_N = to_groups(texts)
        length, longest = row_length(groups), rounded(int(max(len(text.ids) for text in texts)))
        packer = GroupPacker(groups, length, "scalar", share_prompt=True)
        examples = np.arange(len(groups.prompt_lengths))[None]
        needed = packer.shapes([examples], ways).rows
        size = -(-min(max(1, batch_size * longest // length), 1 << (needed - 1).bit_length()) // ways) * ways
        packed = packer.pack(examples, packer.shapes([examples], size))
        values_RT = np.concatenate(
            [np.asarray(run(params, *arrays(packed, rows, by_row))) for rows in cut(packed, size)]
        )
        line, slot = np.divmod(packed.slot_N, packed.end_BA.shape[-1])
        found = np.zeros(len(packed.slot_N), np.float32)
        found[packed.answer_N] = values_RT[line, packed.end_BA[0, line, slot]]
        return refuse_infinite(found)[number_N]

    return score


def to_groups(texts: Sequence[Text]) -> tuple[Groups, np.ndarray]:
    """The different texts by prompt, the largest group first, so that rows fill well; and for each text its number."""
    prompts: dict[bytes, dict[bytes, Text]] = {}
    keys = [(text.ids[: text.n_prompt].tobytes(), text.ids[text.n_prompt :].tobytes()) for text in texts]
    for key, text in zip(keys, texts, strict=True):
        prompts.setdefault(key[0], {}).setdefault(key[1], text)
    order = sorted(prompts, key=lambda prompt: -len(prompt) - sum(map(len, prompts[prompt])))
    numbers = {key: i for i, key in enumerate((prompt, written) for prompt in order for written in prompts[prompt])}
    members = [[*prompts[prompt].values()] for prompt in order]
    lengths = np.asarray([len(text.ids) - text.n_prompt for group in members for text in group])
    n, n_answers = len(members), len(lengths)

    def answer(example: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        text = members[example][number]
        return text.ids[text.n_prompt :], np.zeros(len(text.ids) - text.n_prompt, np.float32)

    groups = Groups(
        prompt=lambda example: members[example][0].ids[: members[example][0].n_prompt],
        answer=answer,
        answer_starts=np.append(0, np.cumsum([len(group) for group in members])),
        prompt_lengths=np.asarray([group[0].n_prompt for group in members]),
        margin=np.zeros(n, np.float32),
        rating=np.zeros(n, np.int8),
        label=np.zeros(n, np.int8),
        answer_lengths=lengths,
        ranks=np.zeros(n_answers, np.int16),
        safe=np.zeros(n_answers, np.int8),
    )
    return groups, np.asarray([numbers[key] for key in keys])


def row_length(groups: Groups) -> int:
    """Tokens of a row."""
    most = int(np.diff(groups.answer_starts).max())
    return rounded(int(groups.prompt_lengths.max() + min(most, ANSWERS) * groups.answer_lengths.max()))


def rounded(length: int) -> int:
    """Up to a power of two or one and a half of it: few lengths, each of which compiles."""
    power = max(SHORTEST, 1 << (length - 1).bit_length())
    return power * 3 // 4 if length <= power * 3 // 4 and power > SHORTEST else power


def cut(packed: PackedAnswers, size: int) -> list[slice]:
    """Batches of so many rows."""
    return [slice(first, first + size) for first in range(0, packed.inputs_BT.shape[1], size)]


def arrays(packed: PackedAnswers, rows: slice, sharding: NamedSharding) -> list[Array]:
    """What a model reads of some rows, on the mesh."""
    found = [getattr(packed, name)[0, rows] for name in ARRAYS]
    return [jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for x in found]
