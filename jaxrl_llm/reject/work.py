"""The work of a run of rejection sampling: models answer, reward models rate; and how far it is and how fast."""

import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from jaxrl_llm.data.chat import chat_stop_ids, find_template, tokenize_asking
from jaxrl_llm.errors import UserError
from jaxrl_llm.evaluation import progress
from jaxrl_llm.parallel.distributed import is_main
from jaxrl_llm.parallel.mesh import make_mesh
from jaxrl_llm.reject.config import RejectConfig, SelfPlayConfig, WriterConfig, answers_each
from jaxrl_llm.reject.draw import Draw, Drawn, make_draw
from jaxrl_llm.reject.files import write_rows
from jaxrl_llm.reject.pool import Asked, Scores, rate
from jaxrl_llm.reject.questions import AsRead, as_read, open_shots
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Scorer
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.saved import find_model, open_model
from jaxrl_llm.scorers import model_scorer
from jaxrl_llm.training.writers import METRICS
from jaxrl_llm.types import Json

RATED = 256  # prompts whose candidates are rated at a time
IN_CACHE = 16  # texts that a CPU rates at once: more of them leave its caches, and take twice as long
ENDS_ASKING = ("\n\n",)  # besides the end token of a turn: few models were trained to end a user's


@dataclass
class Work:
    """What is done, told to metrics.jsonl chunk by chunk."""

    config: RejectConfig
    workdir: Path
    expected: int  # answers
    drawn: int = 0  # answers of this process: others were there already
    tokens: int = 0
    prefills: int = 0
    sample_s: float = 0.0
    rate_s: float = 0.0
    rows: list[Json] = field(default_factory=list)

    def speed(self) -> Json:
        """For the report: seconds, tokens a second of the sampler, and prompts run."""
        rate = self.tokens / self.sample_s if self.sample_s else 0.0
        names = ("drawn", "tokens", "prefills", "sample_s", "rate_s")
        return {name: getattr(self, name) for name in names} | {"tokens_per_s": rate}

    def answer(self, questions: Sequence[Prompt], folder: str = "") -> dict[str, list[Drawn]]:
        """The answers of every model, by its name, a prompt each; one model in memory at a time.

        Raises:
            UserError: a prompt is too long for a model, or its template refuses one; with the model's name.
        """
        read = {name: self.read(name, questions, folder) for name in self.config.models}  # errors before the work
        return {name: self._run(self.draw(name, asked, folder), name, asked) for name, asked in read.items()}

    def ask_on(self, user: SelfPlayConfig, dialogues: Sequence[Prompt], folder: str) -> list[str]:
        """What the user says next in each dialogue; nothing where they have nothing to say, or it became too long."""
        opened = open_model(user.user.path, make_mesh(self.config.mesh))  # gone when this returns
        template = find_template(opened.tokenizer, user.user.template)
        most = opened.config.model.context - user.max_new_tokens
        prompts: list[Prompt | None] = []
        for dialogue in dialogues:
            assert not isinstance(dialogue.said, str)
            ids = tuple(tokenize_asking(opened.tokenizer, template, dialogue.said))
            prompts.append(Prompt(ids, dialogue.said, dialogue.origin) if len(ids) <= most else None)
        draw = make_draw(
            opened,
            prompts,
            self._distribution(user.user),
            stop_ids=chat_stop_ids(opened.tokenizer, template),
            stop_strings=ENDS_ASKING,
            n=1,
            max_new_tokens=user.max_new_tokens,
            slots=self.config.sampling.slots,
            chunk=self.config.sampling.prompts,
            seed=(self.config.seed, folder),
            folder=self.workdir / "samples" / folder,
        )
        with progress("user", len(dialogues), "turns") as advance:
            return ["".join(each.texts).strip() for chunk in draw(advance) for each in chunk.drawn]

    def rate(self, asked: Sequence[Asked]) -> list[Asked]:
        """The candidates with their scores.

        Raises:
            UserError: see `pool.rate` and `scorers.model_scorer`.
        """
        began, scorers = time.perf_counter(), self.scorers()
        judges = [find_model(part.path).fingerprint for part in self._judges().values()]
        kept = Scores(self.workdir / "scores", " ".join(judges))
        with progress("rating", sum(len(each.candidates) for each in asked), "answers") as advance:
            rated = rate(asked, self.config.rewards, scorers, kept, chunk=RATED, advance=advance)
        self.rate_s += time.perf_counter() - began
        return rated

    def scorers(self) -> dict[str, Scorer]:
        """The reward models, by the name of their part."""
        return {name: self._scorer(name, part) for name, part in self._judges().items()}

    def _judges(self) -> dict[str, ModelRewardConfig]:
        parts = self.config.rewards.parts
        return {name: part for name, part in parts.items() if isinstance(part, ModelRewardConfig)}

    def _scorer(self, name: str, part: ModelRewardConfig) -> Scorer:
        """A reward model, which is opened when it is first asked: where all scores are kept it is not."""

        @functools.cache
        def opened() -> Scorer:
            return model_scorer(
                part,
                make_mesh(self.config.mesh),
                batch_size=IN_CACHE if jax.default_backend() == "cpu" else self.config.sampling.slots,
                share_prompts=True,
                policy_tokenizer=find_model(part.path).card.tokenizer,  # whether the models' fits was looked at
                warn=lambda text: print(f"warning: {text}", file=sys.stderr) if is_main() else None,
            )

        def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
            try:
                return opened()(prompts, texts)
            except UserError as error:
                raise UserError(f"rewards.parts.{name}: {error}") from error

        return score

    def read(self, name: str, questions: Sequence[Prompt], folder: str = "") -> AsRead:
        """The prompts as a model reads them.

        Raises:
            UserError: see `questions.as_read`; with the model's name.
        """
        config, model, saved = self.config, self.config.models[name], find_model(self.config.models[name].path)
        tokenizer = saved.card.tokenizer
        try:
            return as_read(
                questions,
                tokenizer,
                find_template(tokenizer, model.template),
                open_shots(model, config.prompts),
                n_shots=model.shots,
                longest=saved.config.model.context - config.sampling.max_new_tokens,
                overlong=config.prompts.overlong if not folder else "drop",  # a dialogue that became too long ends
            )
        except UserError as error:
            raise UserError(f"models.{name}: {error}") from error

    def draw(self, name: str, asked: AsRead, folder: str = "") -> Draw:
        """What draws the answers of a model, which is in memory as long as that is there."""
        model, sampling = self.config.models[name], self.config.sampling
        return make_draw(
            open_model(model.path, make_mesh(self.config.mesh)),
            asked.prompts,
            self._distribution(model),
            stop_ids=asked.stop_ids,
            n=model.n or sampling.n,
            max_new_tokens=sampling.max_new_tokens,
            slots=sampling.slots,
            chunk=sampling.prompts,
            seed=(self.config.seed, folder + name),
            folder=self.workdir / "samples" / folder / name,
        )

    def _distribution(self, model: WriterConfig) -> SamplingConfig:
        shared = {key: getattr(self.config.sampling, key) for key in SamplingConfig.__dataclass_fields__}
        return SamplingConfig(**shared if model.temperature is None else shared | {"temperature": model.temperature})

    def _run(self, draw: Draw, name: str, asked: AsRead) -> list[Drawn]:
        """All chunks; how far it is goes to metrics.jsonl."""
        found: list[Drawn] = []
        if is_main() and not (self.workdir / METRICS).is_file():
            write_rows(self.workdir / METRICS, [])  # from here on its config decides answers that are there
        answers = len(asked.prompts) * (self.config.models[name].n or self.config.sampling.n)
        with progress(name, answers, "answers") as advance:
            for chunk in draw(advance):
                found += chunk.drawn
                done = chunk.answers + (self.rows[-1]["answers"] if self.rows else 0)
                row: Json = {"step": len(self.rows) + 1, "split": "sample", "answers": done, "of": self.expected}
                if chunk.seconds:
                    self.drawn += chunk.answers
                    self.tokens += chunk.tokens
                    self.prefills += chunk.prefills
                    self.sample_s += chunk.seconds
                    row["tokens_per_s"] = chunk.tokens / chunk.seconds
                self.rows.append(row)
                if is_main():
                    write_rows(self.workdir / METRICS, self.rows)
        return found


def new_work(config: RejectConfig, questions: int) -> Work:
    """Nothing done yet."""
    turns = 1 if config.self_play is None else config.self_play.turns
    return Work(config, Path(config.workdir), expected=questions * answers_each(config) * turns)
