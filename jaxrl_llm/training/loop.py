"""The one loop: batch, step, hooks.  It does not know which algorithm it runs, nor where batches come from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax import Array

from jaxrl_llm.parallel.runtime import in_turn
from jaxrl_llm.types import Source, TrainState

# (step, state after it, its metrics on the devices, the source's metrics): logging, evaluation, checkpoints.
Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]  # `step.Step`, or a stand-in
Hook = Callable[[int, TrainState, Mapping[str, Array], Mapping[str, float]], None]


def fit(state: TrainState, step: Step, source: Source, total_steps: int, hooks: Sequence[Hook]) -> TrainState:
    """Steps until `total_steps` updates are done.  Nothing here waits for a real device: hooks do, when they must.

    Hooks are called in order after every step with the step's number, from 1; one ends the loop early by raising.
    """
    for number in range(int(state.step) + 1, total_steps + 1):
        batch, source_metrics = source.next(state)
        state, metrics = step(state, batch)
        in_turn(metrics)
        source.observe(metrics)
        for hook in hooks:
            hook(number, state, metrics, source_metrics)
    return state
