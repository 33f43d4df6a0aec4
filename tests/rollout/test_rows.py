"""Answers as rows."""

import numpy as np

from jaxrl_llm.rollout.rows import from_arrays, lay_out, to_arrays
from jaxrl_llm.rollout.sampler import Completion
from tests.rollout.scripted import END, same


def test_rows_are_laid_out() -> None:
    """A short answer that ended, one that fills its row and was cut off, one that is its end alone."""
    logp = [np.asarray(each, np.float32) for each in ([-0.5, -0.25], [-1, -2, -3], [-4])]
    answers = [
        Completion([21, END], logp[0], logp[0], True),
        Completion([22, 23, 24], logp[1], logp[1], False),
        Completion([END], logp[2], logp[2], True),
    ]
    found = lay_out([(1, 11), (1, 11, 12), (1,)], answers, np.asarray([0.5, -1.25, 2.0]), 2, 6)
    np.testing.assert_array_equal(
        found["tokens.inputs_BT"], [[1, 11, 21, 0, 0, 0], [1, 11, 12, 22, 23, 0], [1, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        found["tokens.targets_BT"], [[11, 21, END, 0, 0, 0], [11, 12, 22, 23, 24, 0], [END, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        found["tokens.weights_BT"], [[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        found["sampler_logp_BT"], [[0, -0.5, -0.25, 0, 0, 0], [0, 0, -1, -2, -3, 0], [-4, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(found["tokens.positions_BT"], np.tile(np.arange(6), (3, 1)))
    np.testing.assert_array_equal(found["score_B"], np.asarray([0.5, -1.25, 2.0], np.float32))
    np.testing.assert_array_equal(found["group_B"], [0, 0, 1])
    np.testing.assert_array_equal(found["ended_B"], [1, 0, 1])
    floats = {name for name, x in found.items() if x.dtype == np.float32}
    assert floats == {"tokens.weights_BT", "sampler_logp_BT", "score_B", "ended_B"}
    assert all(x.dtype == np.int32 for name, x in found.items() if name not in floats)


def test_a_rollout_and_its_arrays_by_name_are_one() -> None:
    arrays = lay_out([(1,)], [Completion([END], np.zeros(1), np.zeros(1), True)], np.zeros(1), 1, 2)
    rows = from_arrays(arrays | {"kl_coef_B": np.zeros(1)})
    rows = rows.replace(statistics={"kl": np.ones(1)}, value_BT=np.ones((1, 2)))  # type: ignore[attr-defined]
    assert {"tokens.inputs_BT", "statistics.kl", "value_BT"} < to_arrays(rows).keys()
    same(from_arrays(to_arrays(rows)), rows)
