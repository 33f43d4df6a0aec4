"""The work of a run of rejection sampling: models answer, reward models rate; and how far it is and how fast."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxrl_llm.data.chat import chat_stop_ids, find_template, tokenize_asking
from jaxrl_llm.errors import UserError
from jaxrl_llm.evaluation import progress
from jaxrl_llm.parallel.distributed import is_main
from jaxrl_llm.parallel.mesh import make_mesh
from jaxrl_llm.reject.config import RejectConfig, SelfPlayConfig, SourceConfig, answers_each
from jaxrl_llm.reject.draw import Draw, Drawn, make_draw, write_rows
from jaxrl_llm.reject.pool import Asked, Scores, rate
from jaxrl_llm.reject.questions import as_read, open_shots
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Scorer
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.saved import Opened, find_model, open_model
from jaxrl_llm.scorers import model_scorer
from jaxrl_llm.training.writers import METRICS
from jaxrl_llm.types import Json

RATED = 256  # prompts whose candidates are rated at a time
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
        found: dict[str, list[Drawn]] = {}
        for name, model in self.config.models.items():
            opened = open_model(model.path, make_mesh(self.config.mesh))
            try:
                draw = self._answering(name, model, opened, questions, folder)
            except UserError as error:
                raise UserError(f"models.{name}: {error}") from error
            found[name] = self._run(draw, name, len(questions) * (model.n or self.config.sampling.n))
        return found

    def ask_on(self, user: SelfPlayConfig, dialogues: Sequence[Prompt], folder: str) -> list[str]:
        """What the user says next in each dialogue; nothing where they have nothing to say, or it became too long."""
        opened = open_model(user.user.path, make_mesh(self.config.mesh))
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
        began, config = time.perf_counter(), self.config
        mesh, scorers, judges = make_mesh(config.mesh), dict[str, Scorer](), []
        for name, part in config.rewards.parts.items():
            if isinstance(part, ModelRewardConfig):
                saved = find_model(part.path)
                judges.append(saved.fingerprint)
                try:
                    scorers[name] = model_scorer(
                        part,
                        mesh,
                        batch_size=config.sampling.slots,
                        policy_tokenizer=saved.card.tokenizer,
                        first=asked[0].prompt,
                        warn=print,
                    )
                except UserError as error:
                    raise UserError(f"rewards.parts.{name}: {error}") from error
        kept = Scores(self.workdir / "scores", " ".join(judges))
        with progress("rating", sum(len(each.candidates) for each in asked), "answers") as advance:
            rated = rate(asked, config.rewards, scorers, kept, chunk=RATED, advance=advance)
        self.rate_s += time.perf_counter() - began
        return rated

    def _answering(
        self, name: str, model: SourceConfig, opened: Opened, questions: Sequence[Prompt], folder: str
    ) -> Draw:
        config, sampling = self.config, self.config.sampling
        prompts, stop_ids = as_read(
            questions,
            opened.tokenizer,
            find_template(opened.tokenizer, model.template),
            open_shots(model, config.prompts),
            longest=opened.config.model.context - sampling.max_new_tokens,
            overlong=config.prompts.overlong if not folder else "drop",  # a dialogue that became too long ends
        )
        return make_draw(
            opened,
            prompts,
            self._distribution(model),
            stop_ids=stop_ids,
            n=model.n or sampling.n,
            max_new_tokens=sampling.max_new_tokens,
            slots=sampling.slots,
            chunk=sampling.prompts,
            seed=(config.seed, folder + name),
            folder=self.workdir / "samples" / folder / name,
        )

    def _distribution(self, model: SourceConfig) -> SamplingConfig:
        shared = {key: getattr(self.config.sampling, key) for key in SamplingConfig.__dataclass_fields__}
        return SamplingConfig(**shared if model.temperature is None else shared | {"temperature": model.temperature})

    def _run(self, draw: Draw, title: str, answers: int) -> list[Drawn]:
        """All chunks; how far it is goes to metrics.jsonl."""
        found: list[Drawn] = []
        with progress(title, answers, "answers") as advance:
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
