"""Lines of an update: gradients, what the backward pass keeps, and what is at work at once."""

import math
from collections.abc import Iterator

import jax.numpy as jnp

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.models.attention import choose_attention
from jaxrl_llm.models.llama import LlamaConfig, stacks
from jaxrl_llm.parallel.mesh import BATCH_AXES
from jaxrl_llm.parallel.specs import RULES
from jaxrl_llm.plan.kept import Traces
from jaxrl_llm.plan.shapes import Remat, batch_of, laid_out, one_layer, row_length
from jaxrl_llm.plan.sizes import Line, Size, on_each, one_at_a_time, size_of

UPDATE = "update"
WHOLE_ALONG_FSDP = {name: axis for name, axis in RULES.items() if axis == "tensor"}
LOGITS = 3  # float32 arrays of the size of a piece's logits: themselves, their softmax, their gradient


def rows_of(config: Config, parts: Assembly) -> int:
    """Rows of a micro-batch on one device."""
    return -(-config.training.batch_size // (config.training.micro_batches * _ways(parts)))


def is_fused(config: Config, parts: Assembly, model: LlamaConfig) -> bool:
    """Whether attention is a kernel that keeps no [T, T]."""
    return choose_attention(config.compute.attention, parts.fixed_dtype, model.channels, parts.mesh) != "xla"


def update_lines(config: Config, parts: Assembly, traces: Traces) -> Iterator[Line]:
    """Of the step."""
    n, rows, length = parts.mesh.size, rows_of(config, parts), row_length(config)
    data, micro_batches = config.data, config.training.micro_batches
    yield Line(UPDATE, "batch", "rows", size_of(batch_of(config, parts, micro_batches, rows * _ways(parts), length)))
    if isinstance(data, PromptDataConfig) and data.pretrain is not None:
        length = -(-(length + data.pretrain_length) // 2)  # as many rows of each, which a trace does not tell apart
    tables: list[tuple[float, str, str]] = []
    at_work: list[tuple[float, str, str]] = []
    for role, division in parts.divisions.items():
        model, fused = config.model_of(role), is_fused(config, parts, config.model_of(role))
        gradients = size_of(parts.template.params[role])
        if micro_batches > 1:
            yield Line(UPDATE, role, "gradients and their sum (float32)", gradients * 2)
        else:
            yield Line(UPDATE, role, "gradients (float32)", gradients)
        remat = effective_remat(config, parts)
        kept, all_of_it = (traces(config, parts.mesh, role, each).at(rows, length, fused) for each in (remat, "none"))
        yield Line(UPDATE, role, f"activations kept, remat {remat}", on_each(kept, n), exact=False)
        lowest = 0 if "embed" in division.specs else min((at for at, _ in stacks(division.specs)), default=0)
        n_layers = max(model.n_layers - lowest, 1)  # that the backward pass goes through
        scores = 0 if fused else 4 * rows * length**2 * model.n_heads / parts.mesh.shape["tensor"]
        again = (all_of_it - kept) / n_layers + scores  # what was not kept of a layer, and a gradient
        at_work.append((again if remat != "none" else kept / n_layers / 2, role, "a layer at work"))
        if parts.algo.trained[role] == "lm":
            at_work.append((logits_of_a_piece(config, parts, rows, length), role, "logits of a piece (float32)"))
        what, together = "gathered: a layer, tables", gathered(parts, role)
        if parts.mesh.shape["fsdp"] == 1:
            what, together = "gradient of the head, a piece's", of_the_head(parts, role)
        tables.append((together.device, role, what))
        if config.compute.layers == "unroll" and parts.mesh.devices.flat[0].platform != "cpu":
            apart = {name: w for name, w in parts.template.params[role].items() if name.startswith("layers")}
            yield Line(UPDATE, role, "layers apart: weights and gradients", size_of(apart) * 2, exact=False)
    yield from one_at_a_time(UPDATE, tables, n)
    yield from one_at_a_time(UPDATE, at_work, n)


def effective_remat(config: Config, parts: Assembly) -> Remat:
    """The policy; XLA for CPU finds that what unrolled layers compute again is there already, and keeps it."""
    on_cpu = parts.mesh.devices.flat[0].platform == "cpu"
    return "none" if on_cpu and config.compute.layers == "unroll" else config.compute.remat


def logits_of_a_piece(config: Config, parts: Assembly, rows: int, length: int) -> float:
    """Bytes on one device, forward and backward."""
    vocab, tensor = config.model.vocab_size, parts.mesh.shape["tensor"]
    places = -(-rows * length // config.compute.loss_chunks)
    return LOGITS * 4.0 * places * (vocab if vocab % tensor else vocab // tensor)


def gathered(parts: Assembly, role: str) -> Size:
    """What fsdp puts together for use, and the gradient of it before that is split again: a layer, and the tables."""
    specs, mesh, dtype = parts.models[role].specs, parts.mesh, parts.fixed_dtype
    found = size_of(laid_out(one_layer(specs["layers"]), mesh, dtype, WHOLE_ALONG_FSDP))
    found += size_of(laid_out(specs["embed"], mesh, jnp.dtype("float32"), WHOLE_ALONG_FSDP))
    if parts.algo.trained[role] == "lm":
        found += size_of(laid_out(specs.get("unembed", specs["embed"]), mesh, dtype, WHOLE_ALONG_FSDP))
    return on_each(2 * found.device, mesh.size)


def of_the_head(parts: Assembly, role: str) -> Size:
    """Gradient of the output matrix by a piece of the rows, beside their sum; a tied one's also beside the table's."""
    specs, trained = parts.models[role].specs, parts.divisions[role].specs
    name = "unembed" if "unembed" in specs else "embed"
    if parts.algo.trained[role] != "lm" or name not in trained:
        return Size()
    return size_of(laid_out(specs[name], parts.mesh, parts.fixed_dtype)) * (1 if name == "unembed" else 2)


def _ways(parts: Assembly) -> int:
    return math.prod(parts.mesh.shape[axis] for axis in BATCH_AXES)
