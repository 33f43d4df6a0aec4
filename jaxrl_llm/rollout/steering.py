"""What a round's updates tell the next round: the coefficients of its KLs, an early end, and warnings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrl_llm.core.kl import doubling_coefficient, proportional_coefficient
from jaxrl_llm.rollout.alarms import Alarms
from jaxrl_llm.rollout.config import RolloutConfig
from jaxrl_llm.types import Json

WATCHED = ("kl", "approx_kl_k3", "entropy")  # metrics of updates, of those that the algorithm has


class Steering:
    """Coefficients, and the metrics of this round's updates that they depend on.

    Args:
        config: first coefficients, targets, limits.
        mini_batches: updates of an epoch.
        kl_penalty: PPO's surrogate=kl_penalty is in use.
        warn: shows a warning.
    """

    def __init__(self, config: RolloutConfig, mini_batches: int, kl_penalty: bool, warn: Callable[[str], None]) -> None:
        self._config, self._mini_batches, self._kl_penalty = config, mini_batches, kl_penalty
        self.kl_coef, self.penalty_coef = config.kl.coef, config.penalty.coef
        self.alarms = Alarms(warn)
        self._seen: list[Mapping[str, Any]] = []  # of this round's updates, on the devices until someone asks

    def see(self, metrics: Mapping[str, Any]) -> bool:
        """Keeps an update's metrics, unfetched; whether to end the round, for which `stop_kl` alone fetches one."""
        self._seen.append({name: metrics[name] for name in WATCHED if name in metrics})
        limit = self._config.stop_kl
        return limit is not None and float(metrics["approx_kl_k3"]) > limit

    def end_round(self, round: int) -> None:
        """After a round's last update: the coefficients of the next one.  Once more, it does nothing."""
        if not self._seen:
            return
        seen, self._seen = _fetched(self._seen), []
        found = _means(seen)
        self.alarms.look_at_updates(round, found)
        kl, answers = self._config.kl, self._config.prompts * self._config.n
        if kl.target is not None:
            self.kl_coef = proportional_coefficient(self.kl_coef, found["kl"], kl.target, kl.horizon, answers)
        if self._kl_penalty:
            epoch = self._mini_batches
            last = seen[(len(seen) - 1) // epoch * epoch :]  # the last epoch, which came farthest
            far = _means(last)["approx_kl_k3"]
            if far > 0:  # while a critic learns alone, the policy has not moved, which says nothing
                self.penalty_coef = doubling_coefficient(self.penalty_coef, far, self._config.penalty.target)

    def state(self) -> Json:
        """JSON that `restore` takes; fetches what was seen."""
        self._seen = [*_fetched(self._seen)]
        return {
            "kl_coef": self.kl_coef,
            "penalty_coef": self.penalty_coef,
            "alarms": self.alarms.state(),
            "seen": [*self._seen],  # which is written in the background, while this goes on
        }

    def restore(self, json: Json) -> None:
        """Continue from it."""
        self.kl_coef, self.penalty_coef = json["kl_coef"], json["penalty_coef"]
        self.alarms.restore(json["alarms"])
        self._seen = list(json["seen"])


def _fetched(seen: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [{name: float(x) for name, x in each.items()} for each in jax.device_get(list(seen))]


def _means(seen: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in seen])) for name in seen[0]}
