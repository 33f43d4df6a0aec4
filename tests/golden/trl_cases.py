"""Answers whose log-probabilities both TRL and the algorithms here are given, so that their losses can be compared."""

import numpy as np

CHOSEN_LENGTHS = (3, 5, 1, 4)
REJECTED_LENGTHS = (4, 2, 6, 3)

Ragged = list[np.ndarray]


def log_probs(seed: int) -> tuple[Ragged, Ragged]:
    """Float32 log-probabilities of the tokens of four chosen and four rejected answers."""
    rng = np.random.default_rng(seed)
    return tuple(
        [-rng.exponential(1.0, n).astype(np.float32) for n in lengths] for lengths in (CHOSEN_LENGTHS, REJECTED_LENGTHS)
    )  # type: ignore[return-value]


POLICY, REFERENCE = log_probs(0), log_probs(1)
# KTO's prompts with answers to others, under policy and reference: their mean log-ratio is above 0, and below it.
MISMATCHED = {"kto": (log_probs(2)[0], log_probs(3)[0]), "kto_below": (log_probs(3)[0], log_probs(2)[0])}
SCORES = (np.float32([1.5, -0.3, 0.2, 2.0]), np.float32([0.5, 0.4, 0.2, -1.0]))  # of a reward model
MARGINS = np.float32([1.0, 0.0, 1 / 3, 2 / 3])
