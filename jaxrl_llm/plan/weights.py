"""Lines of weights: what is there all the time, and what there is besides while a run begins."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrl_llm.assemble import BASES, Assembly, weights_template
from jaxrl_llm.models.llama import depth
from jaxrl_llm.plan.shapes import fixed_weights
from jaxrl_llm.plan.sizes import RESIDENT, Line, Size, on_each, size_of
from jaxrl_llm.types import Params


def resident_lines(parts: Assembly) -> Iterator[Line]:
    """Weights, optimizer and averages of every role."""
    template, fixed = parts.template, fixed_weights(parts)
    moments = by_role(template.opt_state, parts)
    for role in parts.models:
        if role in template.params:
            yield Line(RESIDENT, role, "weights, trained (float32)", size_of(template.params[role]))
            yield Line(RESIDENT, role, "optimizer state", moments[role])
        if role in template.ema:
            yield Line(RESIDENT, role, "running average (float32)", size_of(template.ema[role]))
        if role in fixed:
            size, waits = size_of(fixed[role]), role in parts.on_host
            yield Line(RESIDENT, role, f"weights, fixed ({_dtype(fixed[role])})", size.on_host() if waits else size)
        elif role not in template.params:
            yield Line(RESIDENT, role, f"weights: those of {BASES[role]}", Size())


def load_lines(parts: Assembly) -> Iterator[Line]:
    """The whole weights that a run begins with, where the state has not the very same arrays."""
    for role, division in parts.divisions.items():
        specs = parts.models[role].specs
        same = division.specs | division.fixed_specs if role in parts.keeps else division.specs
        other = {name: spec for name, spec in specs.items() if same.get(name) != spec}
        yield Line("load", role, "weights to begin with (float32)", size_of(weights_template(other, parts.mesh)))


def fetched_lines(phase: str, parts: Assembly) -> Iterator[Line]:
    """Of every role that waits on the host."""
    fixed = fixed_weights(parts)
    for role in parts.on_host:
        yield fetched_line(phase, role, fixed[role], parts.mesh)


def fetched_line(phase: str, role: str, weights: Params, mesh: Mesh) -> Line:
    """What is on the devices of weights that wait on the host: a layer, the next one, and the larger table."""
    n_layers = depth(weights["layers"])
    layers = size_of(weights["layers"]).device * min(2, n_layers) // n_layers
    table = max(size_of(tree).device for name, tree in weights.items() if name != "layers")
    return Line(phase, role, "fetched from the host: layers, a table", on_each(layers + table, mesh.size), exact=False)


def by_role(opt_state: Params, parts: Assembly) -> dict[str, Size]:
    """The optimizer's state; its counters are the first role's."""
    found = dict.fromkeys(parts.algo.trained, Size())
    first = next(iter(found))
    for path, leaf in jax.tree_util.tree_flatten_with_path(opt_state)[0]:
        keys = [getattr(key, "key", None) for key in path]
        role = next((key for key in keys if key in found), first)
        found[role] += size_of(leaf)
    return found


def _dtype(tree: Any) -> str:
    """Of most of the bytes."""
    leaves = jax.tree.leaves(tree)
    return str(max(leaves, key=lambda leaf: leaf.size).dtype)
