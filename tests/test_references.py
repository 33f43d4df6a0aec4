"""Log-probabilities under the reference, kept beside the data."""

import numpy as np
import pytest

from jaxrl_llm.data.preferences import mismatched_answers
from jaxrl_llm.saved import open_model
from tests.tiny import Runs, answer_scores


def files_of(runs: Runs, name: str) -> dict[str, np.ndarray]:
    """Of all references that this session's tests have asked for."""
    store = runs.opened(name).data.stores["data"]
    return {file.stem: np.load(file) for file in store.path.glob("reference-*.npy")}


def test_they_are_those_of_the_model_that_the_run_begins_with(runs: Runs) -> None:
    base, opened = open_model(runs("sft")), runs.opened("kto_cached")
    store = opened.data.stores["data"]
    found = {name: array for name, array in files_of(runs, "kto_cached").items() if opened.fingerprint[:32] in name}
    (own,) = (array for name, array in found.items() if not name.endswith("mismatched"))
    (other,) = (array for name, array in found.items() if name.endswith("mismatched"))
    np.testing.assert_allclose(own, answer_scores(base.model, base.params, store), atol=1e-4)
    np.testing.assert_allclose(
        other, answer_scores(base.model, base.params, mismatched_answers(store, opened.config.data)), atol=1e-4
    )
    assert np.abs(own - other).max() > 1
    assert own.dtype == np.float32


def test_they_are_computed_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(runs, "dpo_cached")

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr("jaxrl_llm.references.reference_of", refuse)
        runs.opened("dpo_cached")
        with pytest.raises(AssertionError):  # another reference
            runs.opened("dpo_cached", f"init_from={runs('dpo')}")
        with pytest.raises(AssertionError):  # in another precision
            runs.opened("dpo_cached", "compute.dtype=bfloat16")
    runs.opened("dpo_cached", f"init_from={runs('dpo')}")
    after = files_of(runs, "dpo_cached")
    assert len(after) == len(before) + 1
    (new,) = (after[name] for name in after.keys() - before.keys())
    assert all(np.abs(new - old).max() > 1e-3 for old in before.values())
