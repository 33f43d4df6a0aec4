"""`bench reject`: sampling, scoring and selecting with the very objects of `reject`, against the sampler alone."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jaxrl_llm.benchmarks.figures import Figures, describe_mesh, peak_memory
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import make_mesh
from jaxrl_llm.reject.checks import check_models, check_prompts
from jaxrl_llm.reject.choose import choose
from jaxrl_llm.reject.config import RejectConfig
from jaxrl_llm.reject.draw import Chunk
from jaxrl_llm.reject.pool import Pool, Scores, rate
from jaxrl_llm.reject.questions import are_said, open_questions
from jaxrl_llm.reject.work import RATED, new_work
from jaxrl_llm.tasks import build_task
from jaxrl_llm.training.console import si


class Pass(NamedTuple):
    """Seconds of one pass, which begins with nothing on disk, and what it drew."""

    draw: float  # the sampler, texts, files
    grade: float  # the task's grader
    rate: float  # reward models, and the rules of the reward
    choose: float
    chunks: list[Chunk]


def bench_reject(config: RejectConfig) -> Figures:
    """Two passes over all prompts of the config: one that compiles, and the one that is measured.

    Raises:
        UserError: of models and prompts; no model answers, or answers go on in dialogues.
    """
    if not config.models or config.self_play is not None:
        raise UserError(
            "`bench reject` measures models that answer prompts\n  mend: a config with models, without self_play"
        )
    with tempfile.TemporaryDirectory() as folder:
        one_pass = prepare(replace(config, workdir=folder))
        first = one_pass()
        found = one_pass()
    tokens = sum(chunk.tokens for chunk in found.chunks)
    sampler = sum(chunk.seconds for chunk in found.chunks)
    total, answers = sum(found[:4]), sum(chunk.answers for chunk in found.chunks)
    shares = {"grade": found.grade, "rate": found.rate, "choose": found.choose, "texts, files": found.draw - sampler}
    return {
        "models": ", ".join(f"{name} ({model.n or config.sampling.n})" for name, model in config.models.items()),
        "rewards": ", ".join(f"{name} ({part.kind})" for name, part in config.rewards.parts.items()) or "none",
        "work": f"{answers:,} answers, {si(tokens)} tokens, {config.sampling.slots} slots",
        "devices": describe_mesh(make_mesh(config.mesh)),
        "prompts run": f"{sum(chunk.prefills for chunk in found.chunks):,} for {answers:,} answers",
        "sampler alone": f"{si(tokens / sampler)} tokens/s, {sampler:.2f} s",
        "all": f"{si(tokens / total)} tokens/s, {total:.2f} s: {100 * sampler / total:.1f} % of the sampler's own",
        **{name: f"{part:.3f} s, {100 * part / total:.1f} %" for name, part in shares.items()},
        "memory, peak": peak_memory(),
        "compile": f"{sum(first[:4]) - total:.1f} s, by which the first pass was longer",
    }


def prepare(config: RejectConfig) -> Callable[[], Pass]:
    """`one_pass()`: everything is drawn, rated and chosen anew, by the same objects."""
    questions = open_questions(config.prompts)
    check_prompts(config, [prompt.said for prompt in questions])
    check_models(config, questions[0])
    task = None if config.prompts.task is None else build_task(config.prompts.task)
    work, folder = new_work(config, len(questions)), Path(config.workdir)
    draws = {name: work.draw(name, work.read(name, questions)) for name in config.models}
    scorers = work.scorers()

    def one_pass() -> Pass:
        for name in ("samples", "scores"):
            shutil.rmtree(folder / name, ignore_errors=True)
        times, pool = [time.perf_counter()], Pool(questions, task, are_said(config.prompts))
        chunks = {name: [*draw(lambda n: None)] for name, draw in draws.items()}
        times.append(time.perf_counter())
        for name, drawn in chunks.items():
            pool.add_drawn(name, questions, [each for chunk in drawn for each in chunk.drawn])
        times.append(time.perf_counter())
        kept = Scores(folder / "scores", "")
        rated = rate(pool.asked, config.rewards, scorers, kept, chunk=RATED, advance=lambda n: None)
        times.append(time.perf_counter())
        choose(rated, config)
        times.append(time.perf_counter())
        draw_s, grade_s, rate_s, choose_s = (b - a for a, b in pairwise(times))
        return Pass(draw_s, grade_s, rate_s, choose_s, [chunk for drawn in chunks.values() for chunk in drawn])

    return one_pass
