"""Stores of judged answers, and an oracle that reads packed rows and knows nothing of how they were packed."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.data.config import ExamplesConfig, PreferenceDataConfig
from jaxrl_llm.data.sequences import Encoded
from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh

LONGEST = 16 + 20  # prompt + answer of the stores made here


def on_mesh(n_devices=1, stacked=True):
    mesh = make_mesh(MeshConfig(data=1 if n_devices < 4 else 2), jax.devices()[:n_devices])
    return NamedSharding(mesh, PartitionSpec(*[None] * stacked, BATCH_AXES, None))


def random_example(rng, k=None, label=-1):
    """Ids are so many that no two texts are the same; a few tokens of an answer weigh nothing."""
    k = k or int(rng.integers(2, 11))
    texts = [rng.integers(1, 2**31 - 1, rng.integers(1, 20)).tolist() for _ in range(k)]
    ranks = rng.integers(0, 3, k)
    if k > 1:
        ranks[:2] = 0, 1
    return Encoded(
        prompt=rng.integers(1, 2**31 - 1, rng.integers(1, 16)).tolist(),
        answers=[(text, [1.0, *rng.choice([0.0, 0.5, 1.0], len(text) - 1).tolist()]) for text in texts],
        ranks=ranks.tolist(),
        safe=rng.integers(-1, 2, k).tolist(),
        margin=float(rng.choice([np.nan, 0.5, 2.0])),
        rating=int(rng.integers(-1, 4)),
        label=label,
    )


def data_of(length=128, share_prompt=True, **weights):
    mix = {name: ExamplesConfig(path="x", weight=weight) for name, weight in weights.items()}
    return PreferenceDataConfig(path=None if mix else "x", mix=mix, length=length, share_prompt=share_prompt)


def take(source, n):
    return [jax.device_get(source.next(None)[0]) for _ in range(n)]


def micro(batch, m):
    return jax.tree.map(lambda x: x[m], batch)


def whole_text(store, example, answer):
    """What the oracle should find: ids and weights of prompt and answer."""
    prompt, (ids, weights) = store.prompt(example), store.answer(example, answer)
    return tuple(prompt.tolist() + ids.tolist()), tuple([0.0] * len(prompt) + weights.tolist())


def every_text(store):
    sizes = np.diff(store.answer_starts)
    return [whole_text(store, e, a) for e in range(len(sizes)) for a in range(sizes[e])]


def read_slots(answers, head):
    """The oracle: slot -> (ids, weights) of prompt and answer, from the arrays [R, ...] of a micro-batch alone."""
    tokens, found, seen = answers.tokens, {}, np.zeros_like(answers.tokens.segments_BT, bool)
    for row, slot in zip(*np.nonzero(answers.segment_BA), strict=True):
        segment = answers.segment_BA[row, slot]
        places = np.flatnonzero(tokens.segments_BT[row] == segment)
        assert places[-1] == answers.end_BA[row, slot]
        assert (np.diff(places) == 1).all()
        if tokens.parents_BT is not None:
            [parent] = set(tokens.parents_BT[row, places].tolist())
            shared = np.flatnonzero(tokens.segments_BT[row] == parent)
            assert not tokens.parents_BT[row, shared].any()
            assert not tokens.weights_BT[row, shared].any()
            places = np.concatenate([shared, places])
        np.testing.assert_array_equal(tokens.positions_BT[row, places], np.arange(len(places)))
        ids, weights = tokens.inputs_BT[row, places], tokens.weights_BT[row, places]
        if head == "lm":  # each input but the first is the target before it
            targets = tokens.targets_BT[row, places]
            lead = targets[:-1]
            np.testing.assert_array_equal(lead, ids[1:])
            ids, weights = np.append(ids, targets[-1]), np.append(0, weights)
        else:
            assert not tokens.targets_BT[row].any()
        found[int(row) * answers.segment_BA.shape[1] + int(slot)] = (tuple(ids.tolist()), tuple(weights.tolist()))
        seen[row, places] = True
    np.testing.assert_array_equal(seen, tokens.segments_BT > 0)
    for field in (tokens.inputs_BT, tokens.targets_BT, tokens.weights_BT, tokens.positions_BT):
        assert not field[~seen].any()
    return found
