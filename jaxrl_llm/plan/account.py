"""The account of a run's memory: what is there all the time, what each phase adds, and what checkpoints take."""

from dataclasses import dataclass
from pathlib import Path

from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.config import Config, Planned, planned_at
from jaxrl_llm.data.source import check_batch
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.llama import LlamaConfig
from jaxrl_llm.plan.kept import Traces
from jaxrl_llm.plan.rollouts import PREPARED, RewardModel, reward_lines, reward_models, round_lines, whole_round
from jaxrl_llm.plan.sizes import RESIDENT, Line, Size, size_of
from jaxrl_llm.plan.target import Target
from jaxrl_llm.plan.update import UPDATE, update_lines
from jaxrl_llm.plan.weights import fetched_lines, load_lines, resident_lines
from jaxrl_llm.rollout.rows import check_rows
from jaxrl_llm.types import Rollouts, Tokens


@dataclass(frozen=True)
class Phase:
    """A part of a run."""

    name: str
    device: int  # bytes that the fullest device holds at once, what is there all the time included


@dataclass(frozen=True)
class Plan:
    """What a run will need.  Evaluation is not counted: it takes less than an update, as a rule."""

    config: Config
    parts: Assembly
    lines: tuple[Line, ...]
    checkpoint: int  # bytes of one, before compression
    rewards: tuple[RewardModel, ...]  # that rate rollouts
    notes: tuple[str, ...]  # what was taken for granted

    @property
    def phases(self) -> list[Phase]:
        """In the order in which they come."""
        names = dict.fromkeys(line.phase for line in self.lines if line.phase != RESIDENT)
        return [Phase(name, self.of(RESIDENT).device + self.of(name).device) for name in names]

    @property
    def peak(self) -> Phase:
        """The largest one."""
        return max(self.phases, key=lambda phase: phase.device)

    def phase(self, name: str) -> int:
        """Bytes that the fullest device holds in it."""
        return next(phase.device for phase in self.phases if phase.name == name)

    @property
    def n_checkpoints(self) -> int:
        """Those that are left at the end of the run: the last ones, and what is kept for ever."""
        every, keep, steps = self.config.checkpoint.every, self.config.checkpoint.keep_every, self.config.training.steps
        n_last = self.config.checkpoint.keep_last
        last = {steps, *range(steps // every * every, 0, -every)[:n_last]} if every else {steps}
        newest = sorted(last)[-n_last:]
        forever = steps // keep - sum(step % keep == 0 for step in newest) if every and keep else 0
        return len(newest) + forever

    def of(self, phase: str) -> Size:
        """What is there in a phase and not in all of them."""
        return sum((line.size for line in self.lines if line.phase == phase and line.counted), Size())


def make_plan(config: Config, target: Target, traces: Traces, planned: Planned | None = None) -> Plan:
    """The plan of a run on these devices; `planned` are other runs that will be there when it begins.

    Raises:
        UserError: the mesh does not fit the devices or the model, the batch cannot be cut, or a model is not what it is
            said to be.
    """
    planned = planned or {}
    refuse_unknown_shape(config, planned)
    config = target.adapt(config)
    parts = assemble(config, target.devices)
    training, rollout, noun = config.training, config.rollout, parts.algo.consumes
    notes, lines, rewards = [], [*resident_lines(parts)], list[RewardModel]()
    state = parts.template
    checkpoint = size_of((state.params, state.fixed, state.opt_state, state.ema)).total
    if noun is Rollouts:
        answers = rollout.prompts * rollout.n
        check_rows(answers, training.batch_size, training.micro_batches, parts.batch_sharding)
        rewards = reward_models(config, planned)
        notes += [reward.note for reward in rewards if reward.note]
        prepared = whole_round(config, parts)
        lines += [*reward_lines(config, parts, rewards), *load_lines(parts)]
        lines += [*round_lines(config, parts, rewards, prepared), Line(UPDATE, "rollouts", PREPARED, prepared)]
        checkpoint += prepared.total
        if rollout.max_prompt_tokens is None:
            notes += [
                f"prompts are taken to be as long as the context of {config.model.context:,} tokens leaves room for: "
                "rollout.max_prompt_tokens=N says otherwise"
            ]
    else:
        lines += load_lines(parts)
        lines += fetched_lines(UPDATE, parts)
        if noun is Tokens:
            check_batch("training.batch_size", training.batch_size, training.micro_batches, parts.rows_sharding)
        else:
            notes += ["each prompt is taken to fill a row with its answers; where several share one, it is less"]
    lines += update_lines(config, parts, traces)
    lines = [line for line in lines if line.size.total or line.phase == RESIDENT]
    return Plan(config, parts, tuple(lines), checkpoint, tuple(rewards), tuple(notes))


def refuse_unknown_shape(config: Config, planned: Planned) -> None:
    """A UserError where the model's shape is that of a model which is not there."""
    path = config.init_from
    if path is None or planned_at(planned, path) is not None:
        return
    if config.model == LlamaConfig() and not Path(path).exists():
        raise UserError(
            f"init_from={config.init_from} is not there, so the model's shape is not known\n"
            "  mend: its path, or a model.preset that it will have"
        )
