"""What is wrong with rollouts though nothing fails, said by name when it begins."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrl_llm.types import Json

PATIENCE = 10  # rounds in a row that the KL may be below 0, which it is by chance now and then
COLLAPSED = 0.1  # share of the first round's entropy below which there is little left to learn from


class Alarms:
    """Tells of each thing once, and again when it had ended in between.  `warn(text)` shows it."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._on: set[str] = set()
        self._negative = 0  # rounds in a row
        self._entropy: float | None = None  # of the first round

    def look_at_answers(self, round: int, score_B: np.ndarray, ended_B: np.ndarray) -> None:
        """After sampling."""
        self._set(
            "rewards",
            len(score_B) > 1 and bool(np.all(score_B == score_B[0])),
            f"round {round}: all {len(score_B)} rewards are {score_B[0]:g}, so there is nothing to learn from them",
        )
        self._set(
            "ends",
            not ended_B.any(),
            f"round {round}: none of the {len(ended_B)} answers ended by itself; rollout.max_new_tokens may be too few",
        )

    def look_at_updates(self, round: int, found: dict[str, float]) -> None:
        """After a round's updates, at the means of their metrics `kl` (nats an answer) and `entropy`."""
        if "kl" in found:
            self._negative = self._negative + 1 if found["kl"] < 0 else 0
            self._set(
                "kl",
                self._negative >= PATIENCE,
                f"round {round}: the KL to the reference was below 0 for {PATIENCE} rounds: answers are not drawn as "
                "training takes them to be, or the policy's ratio is wrong",
            )
        if "entropy" in found:
            self._entropy = found["entropy"] if self._entropy is None else self._entropy
            self._set(
                "entropy",
                found["entropy"] < COLLAPSED * self._entropy,
                f"round {round}: the entropy fell to {found['entropy']:.3g} nats a token from {self._entropy:.3g}: the "
                "policy says nearly the same always; a larger rollout.kl.coef or an entropy bonus hold it",
            )

    def state(self) -> Json:
        """JSON that `restore` takes."""
        return {"on": sorted(self._on), "negative": self._negative, "entropy": self._entropy}

    def restore(self, json: Json) -> None:
        """Continue from it."""
        self._on, self._negative, self._entropy = set(json["on"]), json["negative"], json["entropy"]

    def _set(self, name: str, on: Any, text: str) -> None:
        if on and name not in self._on:
            self._warn(text)
        self._on = self._on | {name} if on else self._on - {name}
