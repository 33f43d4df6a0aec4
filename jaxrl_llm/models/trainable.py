"""What is trained: everything, named parts, or adapters.  The other weights are fixed: no gradient, no optimizer state.

`build_trainable` divides the spec tree of one role in two trees of dicts with no leaf in common; all that follows from
specs (sharding, decay, optimizer groups, counts) follows from either half.  Put together again by name they are what a
`Model` takes: a stack of layers of which some are trained becomes several, "layers@0", "layers@20", run one after
another, and adapters stand beside their weights (see `models.lora`).
"""

import dataclasses
import itertools
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from pydantic import Field, model_validator

from jaxrl_llm.errors import UserError
from jaxrl_llm.models.llama import SCALARS, depth, stacks
from jaxrl_llm.models.lora import RANKS, LoraConfig, adapter_specs, merged
from jaxrl_llm.parallel.specs import ParamSpec, init_params, map_specs, shardings
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Params

HEADS = ("unembed", *SCALARS)


@schema
class AllConfig:
    """Every weight is trained."""

    kind: Literal["all"] = "all"


@schema
class PartsConfig:
    """Only these parts are trained; the backward pass ends below the lowest of them."""

    kind: Literal["parts"] = "parts"
    layers: str | None = None
    """`last 2`, `first 3`, `4:8` (layers 4 to 7, counted from 0), `all`; null trains none."""
    embed: bool = False
    """The embedding, which is the output matrix as well where model.tie_embeddings says so."""
    head: bool = False
    """The output matrix of a language model, or the score (and safety) head of a reward model."""
    final_norm: bool = False
    """The scale of the norm before the head."""

    @model_validator(mode="after")
    def _says_something(self) -> "PartsConfig":
        if self.layers is not None and not re.fullmatch(r"all|(first|last) \d+|\d+:\d+", self.layers):
            raise ValueError(f"layers={self.layers!r}: expected `last 2`, `first 3`, `4:8`, `all` or null")
        if not (self.layers or self.embed or self.head or self.final_norm):
            raise ValueError("selects nothing to train; set layers, embed, head or final_norm")
        return self


TrainableConfig = Annotated[AllConfig | PartsConfig | LoraConfig, Field(discriminator="kind")]


@dataclass(frozen=True)
class Trainable:
    """One role's weights, divided.  `split` and `join` are inverse but for adapters, which `join` adds in."""

    specs: Params  # of what is trained
    fixed_specs: Params  # of the rest
    split: Callable[[Params, Array], tuple[Params, Params]]  # (plain params, key) -> trained, fixed: to begin with
    fixed: Callable[[Params], Params]  # plain params -> fixed: to go on with trained ones that were saved
    join: Callable[[Params, Params], Params]  # (trained, fixed) -> plain params


def build_trainable(config: AllConfig | PartsConfig | LoraConfig, specs: Params, mesh: Mesh) -> Trainable:
    """The division of the weights that `specs` (a Model's) describes.

    Weights that are not cut stay the arrays they are, and no device ever holds more than its share of those that are.

    Raises:
        UserError: the model does not have what is to be trained.
    """
    if isinstance(config, LoraConfig):
        return _adapters(config, specs, mesh)
    if isinstance(config, PartsConfig):
        return _parts(config, specs, mesh)
    return Trainable(specs, {}, lambda params, _: (params, {}), lambda _: {}, lambda trained, _: trained)


def chosen_layers(text: str | None, n_layers: int) -> range:
    """The layers that `trainable.layers` names.  Raises UserError where the model has no such layers."""
    numbers = [int(number) for number in re.findall(r"\d+", text or "")]
    if text is None:
        return range(0)
    if text == "all":
        return range(n_layers)
    first, stop = numbers if ":" in text else (0, *numbers) if "first" in text else (n_layers - numbers[0], n_layers)
    if not 0 <= first < stop <= n_layers:
        raise UserError(
            f"trainable.layers={text!r}: the model has {n_layers} layers, 0 to {n_layers - 1}, and this names "
            f"{'none' if first >= stop else 'others'} of them\n  mend: `last {min(2, n_layers)}`, or `0:{n_layers}`"
        )
    return range(first, stop)


def _parts(config: PartsConfig, specs: Params, mesh: Mesh) -> Trainable:
    n_layers = depth(specs["layers"])
    chosen = chosen_layers(config.layers, n_layers)
    heads = [name for name in HEADS if name in specs]
    if config.head and not heads:
        raise UserError(
            "trainable.head=true: this model's output matrix is its embedding (model.tie_embeddings=true)\n"
            "  mend: trainable.embed=true, which trains it as both"
        )
    wanted = {"embed": config.embed, "final_norm": config.final_norm} | dict.fromkeys(heads, config.head)

    # The stack, cut where what is trained begins or ends.
    edges = sorted({0, n_layers, *({chosen.start, chosen.stop} if chosen else ())})
    pieces = {(f"layers@{i}" if len(edges) > 2 else "layers"): slice(i, j) for i, j in itertools.pairwise(edges)}
    wanted |= {name: piece.start in chosen for name, piece in pieces.items()}
    piece_specs = {name: map_specs(partial(_layers_of, piece), specs["layers"]) for name, piece in pieces.items()}

    def cut(stack: Params) -> Params:
        return {name: jax.tree.map(operator.itemgetter(piece), stack) for name, piece in pieces.items()}

    cut_stack = jax.jit(cut, out_shardings=shardings(piece_specs, mesh))
    join_stacks = jax.jit(
        lambda *parts: jax.tree.map(lambda *ws: jnp.concatenate(ws), *parts),
        out_shardings=shardings(specs["layers"], mesh),
    )

    def divided(params: Params) -> Params:
        return params if len(pieces) == 1 else _without_layers(params) | cut_stack(params["layers"])

    def half(tree: Params, trained: bool) -> Params:
        return {name: leaf for name, leaf in tree.items() if wanted[name] == trained}

    def split(params: Params, key: Array) -> tuple[Params, Params]:
        both = divided(params)
        return half(both, True), half(both, False)

    def join(trained: Params, fixed: Params) -> Params:
        both = {**trained, **fixed}
        layers = [stack for _, stack in stacks(both)]
        return _without_layers(both) | {"layers": layers[0] if len(layers) == 1 else join_stacks(*layers)}

    divided_specs = _without_layers(specs) | piece_specs
    return Trainable(
        specs=half(divided_specs, True),
        fixed_specs=half(divided_specs, False),
        split=split,
        fixed=lambda params: half(divided(params), False),
        join=join,
    )


def _layers_of(piece: slice, spec: ParamSpec) -> ParamSpec:
    return dataclasses.replace(spec, shape=(piece.stop - piece.start, *spec.shape[1:]))


def _without_layers(params: Params) -> Params:
    return {name: leaf for name, leaf in params.items() if name.partition("@")[0] != "layers"}


def _adapters(config: LoraConfig, specs: Params, mesh: Mesh) -> Trainable:
    fresh_specs = {"layers": adapter_specs(config, specs["layers"])}
    heads = [name for name in SCALARS if name in specs]
    trained_specs = fresh_specs | {name: specs[name] for name in heads}

    def fixed(params: Params) -> Params:
        return {name: w for name, w in params.items() if name not in heads}

    def split(params: Params, key: Array) -> tuple[Params, Params]:
        if config.adapter is not None:
            from jaxrl_llm.models.hf.peft import read_adapter

            return read_adapter(Path(config.adapter), config, trained_specs, mesh), fixed(params)
        return init_params(fresh_specs, key, mesh) | {name: params[name] for name in heads}, fixed(params)

    whole_ranks = shardings(map_specs(_whole_rank, fresh_specs["layers"]), mesh)

    def add(adapters: Params, layers: Params) -> Params:
        # Said, or the compiler might add up whole products, a part of the rank from each device.
        adapters = jax.lax.with_sharding_constraint(adapters, whole_ranks)
        return jax.vmap(lambda w: merged(w, config.scale))({**layers, **adapters})

    targets = {name: specs["layers"][name] for name in config.targets}
    add_in = jax.jit(add, out_shardings=shardings(targets, mesh))

    def join(trained: Params, fixed: Params) -> Params:
        layers = fixed["layers"] | add_in(trained["layers"], {name: fixed["layers"][name] for name in targets})
        return {**fixed, **{name: trained[name] for name in heads}, "layers": layers}

    return Trainable(trained_specs, fixed(specs), split, fixed, join)


def _whole_rank(spec: ParamSpec) -> ParamSpec:
    axes = tuple("whole" if axis in RANKS else axis for axis in spec.axes)
    return dataclasses.replace(spec, axes=axes, inputs=())
