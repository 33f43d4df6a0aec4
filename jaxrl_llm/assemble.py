"""From a config to the objects of a run.  `train` and `bench` both take them from here, so they speak of one thing.

No config object passes below this file.
"""

import dataclasses
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.algos import ALGOS
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.errors import UserError
from jaxrl_llm.models import LlamaConfig, build_model
from jaxrl_llm.models.compute import compute_dtype
from jaxrl_llm.models.llama import cast
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.models.trainable import PartsConfig, Trainable, build_trainable
from jaxrl_llm.parallel.mesh import BATCH_AXES, WEIGHT_AXES, make_mesh, ways
from jaxrl_llm.parallel.offload import to_host
from jaxrl_llm.parallel.specs import ParamSpec, count_params, is_spec, map_specs, shardings
from jaxrl_llm.training.optim import make_optimizer
from jaxrl_llm.training.schedules import Schedule, make_schedule
from jaxrl_llm.training.state import merge, new_state, state_shardings
from jaxrl_llm.training.step import Step, make_step
from jaxrl_llm.types import Algo, Model, Params, Rollouts, TrainState

BASES = {"ref": "policy"}  # frozen role -> trained role whose weights of before it has


@dataclass(frozen=True)
class Assembly:
    """What a run is made of; functions and shapes, no arrays yet."""

    mesh: Mesh
    models: dict[str, Model]  # by role, frozen ones too
    divisions: dict[str, Trainable]  # by trained role
    algo: Algo
    tx: optax.GradientTransformationExtraArgs
    step: Step
    roles: Callable[[Params, Params], Params]  # (params, fixed) of a state -> what loss and prepare read
    prepare: "Prepare"  # of rollouts
    template: TrainState  # ShapeDtypeStructs with shardings: what a checkpoint is restored into
    keeps: frozenset[str]  # trained roles whose fixed weights a checkpoint has; others are read where they came from
    fixed_dtype: jnp.dtype  # of the fixed weights that no checkpoint has
    offloads: bool  # frozen roles with weights of their own wait on the host
    batch_sharding: NamedSharding  # of [M, b, T]
    rows_sharding: NamedSharding  # of [b, T]
    n_params: int  # of all trained roles, fixed parts included
    n_trained: int
    flops_per_token: Callable[[int], float]  # of a step at rows of this length; prepare included, but of rollouts

    def init_params(self, seed: int) -> Params:
        """Random weights of every trained role, whole."""
        return {role: self.models[role].init(role_key(seed, role)) for role in self.algo.trained}

    def new_state(self, weights: Params, seed: int, opt_state: Params = None) -> TrainState:
        """Step 0 from whole weights by trained role, with a fresh optimizer state or a kept one."""
        fixed = self.complete({}, weights)
        halves = {
            role: d.split(weights[role], role_key(seed, f"{role} adapters")) for role, d in self.divisions.items()
        }
        params = {role: trained for role, (trained, _) in halves.items()}
        fixed |= {role: halves[role][1] for role in self.keeps if halves[role][1]}
        return new_state(self.tx, params, fixed, jax.tree.map(lambda leaf: leaf.sharding, self.template), opt_state)

    @property
    def needed_weights(self) -> set[str]:
        """The trained roles of which a state that goes on needs, besides its checkpoint, the weights of before it."""
        return {BASES.get(role, role) for role in self.complete_roles}

    @property
    def complete_roles(self) -> list[str]:
        """Roles whose fixed weights no checkpoint has: frozen ones, and with adapters the trained ones."""
        adapted = [role for role, d in self.divisions.items() if d.fixed_specs and role not in self.keeps]
        return adapted + [role for role in self.algo.frozen if BASES[role] not in adapted]

    @property
    def on_host(self) -> list[str]:
        """Roles whose weights wait on the host."""
        return [role for role in self.complete_roles if self.offloads and role in self.algo.frozen]

    def complete(self, fixed: Params, weights: Params) -> Params:
        """The fixed weights that a checkpoint has, and those it has not, from the whole ones that the run started from.

        They are copies: what is trained is given away to the step.
        """
        out = dict(fixed)
        for role in self.complete_roles:
            if role in self.divisions:
                specs, tree = self.divisions[role].fixed_specs, self.divisions[role].fixed(weights[role])
            else:
                specs, tree = self.models[role].specs, weights[BASES[role]]

            def copied(spec: ParamSpec, w: jax.Array) -> jax.Array:
                return jnp.copy(cast(spec, w, self.fixed_dtype))

            out[role] = jax.tree.map(copied, specs, tree, is_leaf=is_spec)
            if role in self.on_host:
                out[role] = to_host(specs, out[role], self.mesh)
        return out

    def kept(self, fixed: Params) -> Params:
        """Of the fixed weights those that a checkpoint has: what `complete` adds is read where it came from."""
        return {role: tree for role, tree in fixed.items() if role not in self.complete_roles}

    def whole(self, state: TrainState, role: str) -> Params:
        """The weights of a trained role as a plain model has them, adapters added in."""
        return self.divisions[role].join(state.params[role], state.fixed.get(role, {}))

    def shown(self, state: TrainState) -> TrainState:
        """The state with its averages in place of the weights: what is evaluated and exported."""
        return dataclasses.replace(state, params={**state.params, **state.ema}) if state.ema else state


HELPERS = {"value"}  # trained roles that serve training alone: they have no average, and no model is opened as one


def averages(config: Config) -> list[str]:
    """The roles that have a running average."""
    return [] if config.training.ema is None else [role for role in config.algo.trained if role not in HELPERS]


def divide(config: Config, role: str, specs: Params, mesh: Mesh) -> Trainable:
    """A role's weights, divided.  A helper's head is always trained: one that stays 0 would help nobody."""
    trainable = config.trainable
    if role in HELPERS and isinstance(trainable, PartsConfig):
        trainable = dataclasses.replace(trainable, head=True)
    return build_trainable(trainable, specs, mesh)


def keeps_fixed(config: Config) -> frozenset[str]:
    """The trained roles whose fixed weights a checkpoint has: where most of a role is trained, and of helpers."""
    if isinstance(config.trainable, PartsConfig):
        return frozenset(config.algo.trained)
    return frozenset(HELPERS & config.algo.trained.keys())


def role_key(seed: int, name: str) -> jax.Array:
    """The random key of a role's initial weights; the policy's is the seed's own."""
    key = jax.random.key(seed)
    return key if name == "policy" else jax.random.fold_in(key, zlib.crc32(name.encode()))


def assemble(config: Config, devices: Sequence[jax.Device] | None = None) -> Assembly:
    """Everything but data and weights.  Raises UserError where the mesh does not fit the devices or a model."""
    mesh = make_mesh(config.mesh, devices)
    heads = {**config.algo.trained, **config.algo.frozen}
    for role in heads:
        check_divides(config.model_of(role), mesh, "critic.model" if role == "value" else "model")
    check_rows_divide(config, mesh)
    lora = config.trainable if isinstance(config.trainable, LoraConfig) else None
    models = {
        role: build_model(
            config.model_of(role), config.compute, mesh, head, lora if role in config.algo.trained else None
        )
        for role, head in heads.items()
    }
    algo = build_algo(config, models)
    divisions = {role: divide(config, role, models[role].specs, mesh) for role in algo.trained}
    specs = {role: division.specs for role, division in divisions.items()}
    fixed_specs = {role: division.fixed_specs for role, division in divisions.items() if division.fixed_specs}
    keeps = keeps_fixed(config)
    schedule = make_schedule(config.schedule, config.training.steps)
    rates = role_rates(config, schedule) if "value" in algo.trained else {}
    tx = make_optimizer(config.optim, schedule, specs, mesh, rates)
    averaged = averages(config)
    template = state_template(
        specs, tx, mesh, {role: fixed_specs[role] for role in keeps & fixed_specs.keys()}, averaged
    )
    where = jax.tree.map(lambda leaf: leaf.sharding, template)
    roles = with_base if lora is not None and algo.frozen else merge
    batch_sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    return Assembly(
        mesh=mesh,
        models=models,
        divisions=divisions,
        algo=algo,
        tx=tx,
        step=make_step(algo, tx, schedule, where, roles, config.training.ema, rates),
        roles=roles,
        prepare=make_prepare(algo, roles, batch_sharding),
        template=template,
        keeps=keeps,
        fixed_dtype=compute_dtype(config.compute),
        offloads=config.compute.offload == "frozen",
        batch_sharding=batch_sharding,
        rows_sharding=NamedSharding(mesh, PartitionSpec(BATCH_AXES)),
        n_params=count_params({role: models[role].specs for role in algo.trained}),
        n_trained=count_params(specs),
        flops_per_token=lambda length: (
            sum(models[role].flops_per_token(length, divisions[role].specs) for role in algo.trained)
            + (0.0 if algo.consumes is Rollouts else forward_flops(models, algo.frozen, length))
        ),
    )


def build_algo(config: Config, models: Mapping[str, Model]) -> Algo:
    """The algorithm; of rollouts at the temperature that they are sampled at."""
    build = ALGOS[config.algo.kind]
    if config.algo.consumes is Rollouts:
        return build(config.algo, models, config.rollout.temperature)
    return build(config.algo, models)


def forward_flops(models: Mapping[str, Model], roles: Iterable[str], length: int) -> float:
    """FLOPs a token of running these models without a gradient."""
    return sum(models[role].flops_per_token(length) / 3 for role in roles)


def role_rates(config: Config, schedule: Schedule) -> dict[str, Schedule]:
    """The schedules of roles with one of their own: a critic's by its own peak, the policy's still while that warms up.

    They have the shape of `schedule`, of which the ratio is taken.
    """
    critic, found = config.critic, dict[str, Schedule]()
    if critic.lr is not None:
        ratio = critic.lr / config.schedule.lr
        found["value"] = lambda t: ratio * schedule(t)
    if critic.warmup:
        found["policy"] = lambda t: jnp.where(t < critic.warmup, 0.0, schedule(t))
    return found


@dataclass(frozen=True)
class Prepare:
    """`algo.prepare` of whole rollouts [M, b, ...] under a state, as their source calls it."""

    jitted: jax.stages.Wrapped  # (params, fixed, rows)

    def __call__(self, state: TrainState, rows: Any) -> Any:
        """The rollouts with what the loss reads besides."""
        return self.jitted(state.params, state.fixed, rows)

    def lower(self, state: TrainState, rows: Any) -> jax.stages.Lowered:
        """The program of these shapes."""
        return self.jitted.lower(state.params, state.fixed, rows)


def make_prepare(algo: Algo, roles: Callable[[Params, Params], Params], sharding: NamedSharding) -> Prepare:
    """Of an algorithm on rollouts; what it makes lies as `sharding` says."""

    def prepare(params: Params, fixed: Params, rows: Any) -> Any:
        assert algo.prepare is not None
        return algo.prepare(roles(params, fixed), rows)

    return Prepare(jax.jit(prepare, out_shardings=sharding))


def with_base(params: Params, fixed: Params) -> Params:
    """`merge`, and frozen roles that are the fixed weights of a trained one, its adapters left out: no copy."""
    return merge(params, fixed) | {role: fixed[base] for role, base in BASES.items() if role not in fixed}


def state_template(
    specs: Params,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    fixed_specs: Mapping[str, Params] = {},
    averaged: Collection[str] = (),
) -> TrainState:
    """The TrainState as ShapeDtypeStructs with shardings; `averaged` roles have a running average."""
    params, fixed = weights_template(specs, mesh), weights_template(fixed_specs, mesh)
    where = state_shardings(tx, params, fixed, mesh, averaged)
    opt_state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(tx.init, params),
        where.opt_state,
    )
    step = jax.ShapeDtypeStruct((), "int32", sharding=where.step)
    ema = {role: params[role] for role in averaged}
    return TrainState(step=step, params=params, fixed=fixed, opt_state=opt_state, ema=ema)  # type: ignore[arg-type]  # shapes


def weights_template(specs: Params, mesh: Mesh) -> Params:
    """Float32 weights as ShapeDtypeStructs with shardings."""
    shapes = map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, "float32"), specs)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings(specs, mesh)
    )


def check_divides(model: LlamaConfig, mesh: Mesh, section: str = "model") -> None:
    """A UserError where the mesh would leave the layers whole on every device.  (A vocabulary may stay whole.)"""
    of_weights = tuple(axis for axis in WEIGHT_AXES if mesh.shape[axis] > 1)
    checks: list[tuple[str, int, tuple[str, ...]]] = [
        (f"{section}.d_model", model.d_model, of_weights),
        (f"{section}.n_heads", model.n_heads, ("tensor",)),
        (f"{section}.d_ff", model.d_ff, ("tensor",)),
    ]
    for key, size, axes in checks:
        if size % ways(mesh, axes):
            named = " x ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in axes)
            raise UserError(
                f"{named} does not divide {key}={size}\n"
                f"  mend: a mesh.{axes[0]} that does, or mesh.data for the rest of the devices"
            )


def check_rows_divide(config: Config, mesh: Mesh) -> None:
    """A UserError where rows could not be cut along T: each device would have all of them."""
    data, context = config.data, mesh.shape["context"]
    if isinstance(data, PromptDataConfig):  # rows are as long as a multiple that holds them, up to the model's context
        lengths = {"model.context": config.model.context}
        lengths |= {"data.pretrain_length": data.pretrain_length} if data.pretrain is not None else {}
    else:
        lengths = {"data.length": data.length}
    for key, length in lengths.items():
        if length % context:
            mend = f"{key}={length // context * context}, or " if length > context else ""
            raise UserError(
                f"mesh.context={context} does not divide {key}={length}, and rows are cut so\n"
                f"  mend: {mend}a mesh.context that does"
            )
