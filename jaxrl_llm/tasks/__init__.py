"""A task is examples, a prompt and a grader.  No JAX.  Here too: the corpus that the project generates itself."""

import random
from collections.abc import Iterator

from jaxrl_llm.tasks.arithmetic import make_problem
from jaxrl_llm.tasks.stories import story


def corpus(n_documents: int, seed: int) -> Iterator[str]:
    """Documents to pretrain on without a download: stories and, in every other one on average, worked arithmetic.

    The problems are of the train split, of one to three steps: "Question: ...\\nAnswer: ...\\n#### 19".
    """
    rng = random.Random(seed)
    for _ in range(n_documents):
        if rng.random() < 0.5:
            yield story(rng)
        else:
            problem = make_problem(rng, "train", rng.randint(1, 3))
            yield f"Question: {problem.question}\nAnswer: {problem.answer}"
