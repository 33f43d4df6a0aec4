"""From a config to the objects of a run.  `train` and `bench` both take them from here, so they speak of one thing.

No config object passes below this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.algos import ALGOS
from jaxrl_llm.config import Config
from jaxrl_llm.errors import UserError
from jaxrl_llm.models import LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import BATCH_AXES, make_mesh
from jaxrl_llm.parallel.specs import count_params, map_specs, shardings
from jaxrl_llm.training.optim import make_optimizer
from jaxrl_llm.training.schedules import make_schedule
from jaxrl_llm.training.state import new_state, state_shardings
from jaxrl_llm.training.step import Step, make_step
from jaxrl_llm.types import Algo, Model, Params, TrainState


@dataclass(frozen=True)
class Assembly:
    """What a run is made of; functions and shapes, no arrays yet."""

    mesh: Mesh
    models: dict[str, Model]  # by role
    algo: Algo
    tx: optax.GradientTransformationExtraArgs
    step: Step
    template: TrainState  # ShapeDtypeStructs with shardings: what a checkpoint is restored into
    batch_sharding: NamedSharding  # of [M, b, T]
    rows_sharding: NamedSharding  # of [b, T]
    n_params: int
    flops_per_token: float
    tokens_per_step: int

    def new_state(self, params: Params, opt_state: Params = None) -> TrainState:
        """Step 0 from these params by role, with a fresh optimizer state or a kept one."""
        return new_state(self.tx, params, jax.tree.map(lambda leaf: leaf.sharding, self.template), opt_state)

    def init_params(self, seed: int) -> Params:
        """Random weights of every trained role."""
        return {role: self.models[role].init(jax.random.key(seed)) for role in self.algo.trained}


def assemble(config: Config, devices: Sequence[jax.Device] | None = None) -> Assembly:
    """Everything but data and weights.  Raises UserError where the mesh does not fit the devices or the model."""
    mesh = make_mesh(config.mesh, devices)
    check_divides(config.model, mesh)
    models = {"policy": build_model(config.model, config.compute, mesh)}
    algo = ALGOS[config.algo.kind](config.algo, models)
    specs = {role: models[role].specs for role in algo.trained}
    schedule = make_schedule(config.schedule, config.training.steps)
    tx = make_optimizer(config.optim, schedule, specs, mesh)
    template = state_template(specs, tx, mesh)
    step = make_step(algo, tx, schedule, jax.tree.map(lambda leaf: leaf.sharding, template))
    return Assembly(
        mesh=mesh,
        models=models,
        algo=algo,
        tx=tx,
        step=step,
        template=template,
        batch_sharding=NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)),
        rows_sharding=NamedSharding(mesh, PartitionSpec(BATCH_AXES)),
        n_params=count_params(specs),
        flops_per_token=models["policy"].flops_per_token(config.data.length),
        tokens_per_step=config.training.batch_size * config.data.length,
    )


def state_template(specs: Params, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The TrainState as ShapeDtypeStructs with shardings."""
    params = weights_template(specs, mesh)
    where = state_shardings(tx, params, mesh)
    opt_state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(tx.init, params),
        where.opt_state,
    )
    step = jax.ShapeDtypeStruct((), "int32", sharding=where.step)
    return TrainState(step=step, params=params, fixed={}, opt_state=opt_state)  # type: ignore[arg-type]


def weights_template(specs: Params, mesh: Mesh) -> Params:
    """Float32 weights as ShapeDtypeStructs with shardings."""
    shapes = map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, "float32"), specs)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings(specs, mesh)
    )


def check_divides(model: LlamaConfig, mesh: Mesh) -> None:
    """A UserError where the mesh would leave the layers whole on every device.  (A vocabulary may stay whole.)"""
    checks: list[tuple[str, int, str]] = [
        ("model.d_model", model.d_model, "fsdp"),
        ("model.n_heads", model.n_heads, "tensor"),
        ("model.d_ff", model.d_ff, "tensor"),
    ]
    for key, size, axis in checks:
        if size % mesh.shape[axis]:
            raise UserError(
                f"mesh.{axis}={mesh.shape[axis]} does not divide {key}={size}\n"
                f"  mend: a mesh.{axis} that does, or mesh.data for the rest of the devices"
            )
