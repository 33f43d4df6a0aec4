"""What the compiler says of the very programs of a plan: memory, and what devices say to each other."""

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.specs import is_spec
from jaxrl_llm.plan.account import Plan
from jaxrl_llm.plan.hlo import Collective, collectives, sides_of
from jaxrl_llm.plan.programs import Program, programs


@dataclass(frozen=True)
class Compiled:
    """A program; bytes on a device."""

    name: str
    phase: str  # of the plan
    seconds: float  # that compiling took
    arguments: int
    temporaries: int  # and results that are no argument any more
    beside: int  # what it does not read and is there all the same
    talk: tuple[Collective, ...]
    refused: str | None = None  # why the compiler gave up: memory

    @property
    def peak(self) -> int:
        """All of it at once."""
        return self.arguments + self.temporaries + self.beside


def compile_programs(plan: Plan, on: Callable[[str], object] = lambda name: None) -> Iterator[Compiled]:
    """Each program of the run for the devices of its plan; `on(name)` is told before one is compiled.

    A compiler that does not say what it needs is taken to need nothing.
    """
    for program in programs(plan):
        on(program.name)
        before = time.perf_counter()
        try:
            compiled = program.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                refuse_foreign(plan, program, str(error))
                raise
            yield refused(program, time.perf_counter() - before, str(error))
            continue
        seconds, said, text = time.perf_counter() - before, compiled.memory_analysis(), compiled.as_text()
        talk = tuple(collectives(text)) if plan.parts.mesh.size > 1 and text else ()
        if said is None:
            yield Compiled(program.name, program.phase, seconds, 0, 0, program.beside, talk)
            continue
        if plan.parts.mesh.devices.flat[0].platform == "tpu":  # whose temp_size is more than it has or refuses by
            made = said.peak_memory_in_bytes - said.argument_size_in_bytes
        else:  # whose peak leaves temporaries out
            made = said.temp_size_in_bytes + said.output_size_in_bytes - said.alias_size_in_bytes
        yield Compiled(program.name, program.phase, seconds, said.argument_size_in_bytes, made, program.beside, talk)


def refuse_foreign(plan: Plan, program: Program, message: str) -> None:
    """A UserError where it was a compiler for devices that are not here that failed: mostly it is not this jax's."""
    if plan.parts.mesh.devices.flat[0].platform != jax.default_backend():
        raise UserError(
            f"compiling `{program.name}` for devices that are not here: {message.splitlines()[0]:.300}\n"
            f"  mend: the libtpu that belongs to jax {jax.__version__}: pip install 'jax[tpu]=={jax.__version__}'"
        )


def refused(program: Program, seconds: float, message: str) -> Compiled:
    """Of a program that the compiler could not fit: the bytes that it names."""
    sizes = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.search(r"([\d.]+)([KMGT])\)? (?:exceeds available|of [\d.]+[KMGT] hbm)", message)
    needed = int(float(found[1]) * sizes[found[2]]) if found else 0
    words = message.split("\n", 1)[0].removeprefix("RESOURCE_EXHAUSTED: ")
    return Compiled(program.name, program.phase, seconds, 0, needed, program.beside, (), words)


def whole_stacks(plan: Plan, talk: tuple[Collective, ...]) -> list[Collective]:
    """The gathers that put a whole stack of layers together: there should be none."""
    stacks = {
        (spec.shape[0], spec.size // plan.parts.mesh.shape["tensor"])
        for model in plan.parts.models.values()
        for spec in jax.tree.leaves(model.specs["layers"], is_leaf=is_spec)
        if len(spec.shape) > 2 and spec.shape[0] > 1
    }

    def is_stack(sides: list[int]) -> bool:
        return any(layers in sides and math.prod(sides) == size for layers, size in stacks)

    return [c for c in talk if c.kind == "all-gather" and any(is_stack(sides_of(array)) for array in c.arrays)]
