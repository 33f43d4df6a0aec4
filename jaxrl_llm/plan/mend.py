"""What to try when a run does not fit: overrides, each tried by making the plan with it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jaxrl_llm.config import Config
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES
from jaxrl_llm.plan.account import Plan, make_plan
from jaxrl_llm.plan.kept import Traces
from jaxrl_llm.plan.target import Target
from jaxrl_llm.types import Rollouts

MOST_DEVICES = 4096
MOST_TENSOR = 8  # devices of one machine


@dataclass(frozen=True)
class Mend:
    """Overrides with which a run fits."""

    overrides: tuple[str, ...]
    n_devices: int  # as many as there are, unless they are too few in any case
    peak: int  # bytes on the fullest device


def find_mend(
    plan: Plan,
    target: Target,
    load: Callable[[tuple[str, ...]], Config],
    traces: Traces,
    more: Mapping[str, float] = MappingProxyType({}),
) -> Mend | None:
    """The first of the candidates with which it fits, those that cost least first; None where none does.

    Args:
        plan: which does not fit.
        target: into which it should.
        load: the config with such overrides after its own.
        traces: of plans before.
        more: times as much as planned that the compiler wants in a phase, of those where it was asked.
    """
    assert target.limit is not None, "or nothing could be too large"
    for overrides, n_devices in candidates(plan, len(target.devices)):
        try:
            there = target if n_devices == len(target.devices) else target.of(n_devices)
            found = make_plan(load(overrides), there, traces)
        except UserError:  # a batch that cannot be cut so, a mesh that does not divide the model
            continue
        peak = max(round(phase.device * more.get(phase.name, 1.0)) for phase in found.phases)
        if peak <= target.limit:
            return Mend(overrides, n_devices, peak)
    return None


def candidates(plan: Plan, n_devices: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Overrides, and on how many devices: first what changes speed alone and little, last what costs hardware."""
    config, mesh = plan.config, plan.parts.mesh
    remats = {"none": ("dots", "full"), "dots": ("full",), "full": ()}[config.compute.remat]
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    finest = config.training.batch_size // ways
    cuts = powers(2 * config.training.micro_batches, finest)
    slots: tuple[str, ...] = ()
    if config.algo.consumes is Rollouts and plan.peak.name == "sample":
        for n in reversed(powers(4, config.rollout.slots // 2)):
            slots = (f"rollout.slots={n}",)
            yield slots, n_devices
    if remats[:1] == ("dots",):
        yield ("compute.remat=dots",), n_devices
    for n in cuts:
        yield (f"training.micro_batches={n}",), n_devices
    for remat in remats:
        for n in (config.training.micro_batches, *cuts):
            cut = () if n == config.training.micro_batches else (f"training.micro_batches={n}",)
            yield (f"compute.remat={remat}", *cut), n_devices
    if getattr(config.algo, "reference", None) == "step":
        yield ("algo.reference=cached",), n_devices
    if config.compute.offload == "none":
        yield ("compute.offload=frozen",), n_devices
    least = (*slots, *(("compute.remat=full",) if remats else ()))
    data, context = mesh.shape["data"], mesh.shape["context"]
    for n in powers(2 * n_devices, MOST_DEVICES):
        for tensor in powers(mesh.shape["tensor"], min(n, MOST_TENSOR)):
            fsdp = n // (data * context * tensor)
            split = (f"mesh.fsdp={fsdp}", *((f"mesh.tensor={tensor}",) if tensor > mesh.shape["tensor"] else ()))
            rows = config.training.batch_size // max(data * fsdp, 1)
            fine = (f"training.micro_batches={rows}",) if rows > config.training.micro_batches else ()
            yield split, n
            yield (*split, *least, *fine), n
        fsdp = max(config.training.batch_size // data, 1)  # a row for each device, and what is left cuts rows
        parts = n // (data * fsdp * mesh.shape["tensor"])
        if parts > context:
            yield (f"mesh.fsdp={fsdp}", f"mesh.context={parts}", "training.micro_batches=1", *least), n


def powers(first: int, last: int) -> list[int]:
    """first, twice that, ... up to `last`."""
    found = []
    while first <= last:
        found.append(first)
        first *= 2
    return found
