"""`python -m tests.reliability.killed WHERE ROUND_OR_STEP CONFIG`: train, and be killed at exactly this place.

rollout: answers of the round were sampled, none was rated.  update: the step was computed, nobody saw it.  save: the
checkpoint of the step has begun to be written.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from jaxrl_llm.cli import main
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.step import Step


def die_after(owner: type, name: str, due: Callable[..., bool], last_words: Callable[[], None] = lambda: None) -> None:
    """Kill this process after the method's call of which `due(*its arguments)` is true."""
    method = getattr(owner, name)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        found = method(*args, **kwargs)
        if due(*args):
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, deadly)


def run(where: str, number: int, config: str) -> int:
    """Exit code of a run that nobody killed.

    What was saved before that place is on disk when it dies there, so that it is known from where the run goes on.
    """
    save, opened = Checkpoints.save, list[Checkpoints]()

    def remembered(checkpoints: Checkpoints, *args: Any) -> None:
        opened.append(checkpoints)
        save(checkpoints, *args)

    Checkpoints.save = remembered  # type: ignore[method-assign]  # to know whom to wait for

    def saved() -> None:
        opened[-1].wait()

    if where == "rollout":
        die_after(RolloutSource, "_write", lambda source, *_: source.state()[0]["round"] == number, saved)
    elif where == "update":
        die_after(Step, "__call__", lambda step, state, batch: _step(state) == number, saved)
    else:
        die_after(Checkpoints, "save", lambda checkpoints, state, *_: int(state.step) == number)
    return main(["train", config])


def _step(state: Any) -> int:
    """The number of the update that this state, which was given away, went into."""
    _step.count += 1  # type: ignore[attr-defined]
    return _step.count  # type: ignore[attr-defined]


_step.count = 0  # type: ignore[attr-defined]

if __name__ == "__main__":
    sys.exit(run(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
