"""Waiting for a shared disk."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm import alike


@pytest.mark.parametrize(("late", "found"), [(30, [5]), (0, [])], ids=["shown in time", "never"])
def test_a_checkpoint_that_another_host_sees_is_waited_for(
    late: int, found: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process sees step 5 from the start, this one at its second look."""
    looks = []

    def allgather(ours: np.ndarray) -> np.ndarray:
        looks.append(ours)
        (tmp_path / "5").mkdir(exist_ok=True)
        return np.stack([ours, [zlib.crc32(b"[5]"), 0]])

    monkeypatch.setattr(alike.multihost_utils, "process_allgather", allgather)
    monkeypatch.setattr(alike, "LATE", late)
    monkeypatch.setattr(alike.time, "sleep", lambda seconds: None)
    assert alike.seen_by_all(tmp_path) == found
    assert len(looks) == (2 if found else 1)
