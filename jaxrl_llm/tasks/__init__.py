"""A task is examples, a prompt and a grader.  No JAX.  Here too: the corpus that the project generates itself."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from jaxrl_llm.schema import schema
from jaxrl_llm.tasks import arithmetic, gsm8k
from jaxrl_llm.tasks.stories import story
from jaxrl_llm.tasks.task import Task
from jaxrl_llm.tasks.wording import tell
from jaxrl_llm.tasks.worked import Line, work

TaskConfig = Annotated[arithmetic.ArithmeticConfig | gsm8k.Gsm8kConfig, Field(discriminator="kind")]

DRILLED = 8  # sums in a document of them

TASKS: Mapping[str, Callable[[Any], Task]] = {
    "arithmetic": arithmetic.build,
    "gsm8k": gsm8k.build,
}


def build_task(config: TaskConfig) -> Task:
    """The task of a config."""
    return TASKS[config.kind](config)


@schema
class CorpusKinds(arithmetic.ArithmeticConfig):
    """What the generated corpus is made of; its problems are of the task `arithmetic`."""

    stories: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the documents that are stories."""
    drills: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the others that are sums alone, 8 of them: they teach to compute sooner than stories about sums do."""


def corpus(n_documents: int, seed: int, kinds: CorpusKinds | None = None) -> Iterator[str]:
    """Documents to pretrain on without a download: stories, and worked arithmetic of the train split.

    "Question: ...\\nAnswer: ...\\n#### 19", or drills: "18+5=<<18+5=23>>23\\n...".
    """
    kinds, rng = kinds or CorpusKinds(), random.Random(seed)
    compute, ways = arithmetic.author(seed, kinds.forgets, kinds.varied)
    fewest, most = kinds.difficulty if isinstance(kinds.difficulty, tuple) else (kinds.difficulty,) * 2

    def sums() -> arithmetic.Sum:
        return arithmetic.draw(rng, "train", rng.randint(fewest, most), kinds.largest)

    for _ in range(n_documents):
        if rng.random() < kinds.stories:
            yield story(rng)
        elif kinds.drills and rng.random() < kinds.drills:
            yield "\n".join(drill(rng, list(work(sums(), compute, ways))) for _ in range(DRILLED))
        else:
            problem = tell(rng, sums(), compute, ways=ways)
            yield f"{problem.text} {problem.answer}"


def drill(rng: random.Random, lines: Sequence[Line]) -> str:
    """One of the equations of a worked problem, as its answer has it."""
    equations = rng.choice(lines).equations
    equation, result = equations[0] if len(equations) == 1 else rng.choice(equations)
    return f"{equation}=<<{equation}={result}>>{result}"
