"""A task is examples, a prompt and a grader.  No JAX.  Here too: the corpus that the project generates itself."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from jaxrl_llm.tasks import arithmetic, gsm8k
from jaxrl_llm.tasks.stories import story
from jaxrl_llm.tasks.task import Task
from jaxrl_llm.tasks.wording import tell

TaskConfig = Annotated[arithmetic.ArithmeticConfig | gsm8k.Gsm8kConfig, Field(discriminator="kind")]

TASKS: Mapping[str, Callable[[Any], Task]] = {
    "arithmetic": arithmetic.build,
    "gsm8k": gsm8k.build,
}


def build_task(config: TaskConfig) -> Task:
    """The task of a config."""
    return TASKS[config.kind](config)


def corpus(n_documents: int, seed: int) -> Iterator[str]:
    """Documents to pretrain on without a download: stories and, in every other one on average, worked arithmetic.

    The problems are of the train split, of one to three steps: "Question: ...\\nAnswer: ...\\n#### 19".
    """
    rng = random.Random(seed)
    for _ in range(n_documents):
        if rng.random() < 0.5:
            yield story(rng)
        else:
            steps = rng.randint(1, 3)
            problem = tell(rng, arithmetic.draw(rng, "train", steps))
            yield f"{problem.text} {problem.answer}"
