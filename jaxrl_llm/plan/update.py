"""Lines of an update: gradients, what the backward pass keeps, and what is at work at once."""

from collections.abc import Iterator

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.models.attention import QUERY_BLOCK, choose_attention
from jaxrl_llm.models.llama import LlamaConfig, stacks
from jaxrl_llm.parallel.mesh import BATCH_AXES, WEIGHT_AXES, ways
from jaxrl_llm.parallel.specs import RULES
from jaxrl_llm.plan.kept import Traces
from jaxrl_llm.plan.shapes import Remat, batch_of, laid_out, one_layer, row_length
from jaxrl_llm.plan.sizes import Line, Size, on_each, one_at_a_time, size_of

UPDATE = "update"
GATHERED = {name: axis for name, axis in RULES.items() if axis == "tensor"}
LOGITS = 3  # float32 arrays of the size of a piece's logits: themselves, their softmax, their gradient


def rows_of(config: Config, parts: Assembly) -> int:
    """Rows of a micro-batch on one device."""
    return -(-config.training.batch_size // (config.training.micro_batches * ways(parts.mesh, BATCH_AXES)))


def places_of(length: int, parts: Assembly) -> int:
    """Of a row on one device."""
    context = parts.mesh.shape["context"]
    return length // context if length % context == 0 else length


def is_fused(config: Config, parts: Assembly, model: LlamaConfig) -> bool:
    """Whether attention is a kernel that has no scores of many queries in memory."""
    return choose_attention(config.compute.attention, parts.fixed_dtype, model.channels, parts.mesh) != "xla"


def update_lines(config: Config, parts: Assembly, traces: Traces) -> Iterator[Line]:
    """Of the step."""
    n, rows, length = parts.mesh.size, rows_of(config, parts), row_length(config)
    data, micro_batches = config.data, config.training.micro_batches
    yield Line(
        UPDATE,
        "batch",
        "rows",
        size_of(batch_of(config, parts, micro_batches, rows * ways(parts.mesh, BATCH_AXES), length)),
    )
    if isinstance(data, PromptDataConfig) and data.pretrain is not None:
        length = -(-(length + data.pretrain_length) // 2)  # as many rows of each, which a trace does not tell apart
    places, context = places_of(length, parts), parts.mesh.shape["context"]
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
        kept, all_of_it = (
            traces(config, parts.mesh, role, each).at(rows, places, fused or context > 1)
            for each in (remat, most_of_a_layer(parts))
        )
        whole = keys_and_values(parts, model, rows, length)
        lowest = 0 if "embed" in division.specs else min((at for at, _ in stacks(division.specs)), default=0)
        n_layers = max(model.n_layers - lowest, 1)  # that the backward pass goes through
        gathered_too = round(n_layers * whole) if remat == "none" else 0
        what = f"activations kept, remat {remat}"
        yield Line(UPDATE, role, what, on_each(kept + gathered_too, n), exact=False)
        # What was not kept of a layer and is made again; or the gradient of what was.
        again = (all_of_it - kept if all_of_it > kept else kept / 2) / n_layers
        if not fused and (context > 1 or remat != "none"):
            again += scores_at_once(parts, model, rows, length)
        at_work.append((again + 2 * whole, role, "a layer at work"))
        if parts.algo.trained[role] == "lm":
            at_work.append((logits_of_a_piece(config, parts, rows, places), role, "logits of a piece (float32)"))
        what, together = "gathered: a layer, the head", gathered(parts, role)
        if ways(parts.mesh, WEIGHT_AXES) == 1:
            what, together = "gradient of the head, a piece's", of_the_head(parts, role)
        tables.append((together.device, role, what))
        if config.compute.layers == "unroll" and not on_cpu(parts):
            apart = {name: w for name, w in parts.template.params[role].items() if name.startswith("layers")}
            yield Line(UPDATE, role, "layers apart: weights and gradients", size_of(apart) * 2, exact=False)
    yield from one_at_a_time(UPDATE, tables, n)
    yield from one_at_a_time(UPDATE, at_work, n)


def effective_remat(config: Config, parts: Assembly) -> Remat:
    """The policy; XLA for CPU finds that what unrolled layers compute again is there already, and keeps it."""
    return "none" if on_cpu(parts) and config.compute.layers == "unroll" else config.compute.remat


def most_of_a_layer(parts: Assembly) -> Remat:
    """The policy that keeps what a layer at work has: XLA for CPU has all in memory; for others it fuses what is cheap
    into what reads it, and has the products."""
    return "none" if on_cpu(parts) else "dots"


def on_cpu(parts: Assembly) -> bool:
    """Whether it is planned for CPUs."""
    return parts.mesh.devices.flat[0].platform == "cpu"


def keys_and_values(parts: Assembly, model: LlamaConfig, rows: int, length: int) -> float:
    """Bytes on one device of a layer's keys and values of whole rows, where those are split along T."""
    tensor = parts.mesh.shape["tensor"]
    heads = model.n_heads if model.n_kv_heads % tensor else model.n_kv_heads
    foreign = length - places_of(length, parts)  # of other devices
    return 2.0 * rows * foreign * heads / tensor * model.channels * parts.fixed_dtype.itemsize


def scores_at_once(parts: Assembly, model: LlamaConfig, rows: int, length: int) -> float:
    """Bytes on one device of the scores of a layer, with softmax and gradients where no trace has them; where rows are
    split along T, of a block of queries."""
    places = places_of(length, parts)
    queries = length if places == length else min(QUERY_BLOCK, places)
    arrays = 1 if places == length and on_cpu(parts) else LOGITS
    return arrays * 4.0 * rows * queries * length * model.n_heads / parts.mesh.shape["tensor"]


def logits_of_a_piece(config: Config, parts: Assembly, rows: int, places: int) -> float:
    """Bytes on one device, forward and backward; `places` of a row."""
    vocab, tensor = config.model.vocab_size, parts.mesh.shape["tensor"]
    piece = -(-rows * places // config.compute.loss_chunks)
    return LOGITS * 4.0 * piece * (vocab if vocab % tensor else vocab // tensor)


def gathered(parts: Assembly, role: str) -> Size:
    """What is put together for use, a layer and the head, and the gradients of what is trained of it."""
    specs, trained, mesh = parts.models[role].specs, parts.divisions[role].specs, parts.mesh
    learns = any("wq" in stack for _, stack in stacks(trained))
    found = (1 + learns) * size_of(laid_out(one_layer(specs["layers"]), mesh, parts.fixed_dtype, GATHERED)).device
    name = "unembed" if "unembed" in specs else "embed"
    if parts.algo.trained[role] == "lm":
        found += (1 + (name in trained)) * size_of(laid_out(specs[name], mesh, parts.fixed_dtype, GATHERED)).device
    return on_each(found, mesh.size)


def of_the_head(parts: Assembly, role: str) -> Size:
    """Gradient of the output matrix by a piece of the rows, beside their sum; a tied one's also beside the table's."""
    specs, trained = parts.models[role].specs, parts.divisions[role].specs
    name = "unembed" if "unembed" in specs else "embed"
    if parts.algo.trained[role] != "lm" or name not in trained:
        return Size()
    return size_of(laid_out(specs[name], parts.mesh, parts.fixed_dtype)) * (1 if name == "unembed" else 2)
