"""Our weights as safetensors, a tensor at a time: host memory holds one layer of one weight, never a second model.

The safetensors library writes whole dictionaries of tensors, so the format (eight bytes of length, a JSON header, the
tensors' bytes) is written here.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxrl_llm.models.hf.configs import CONFIG, config_json
from jaxrl_llm.models.hf.names import NAMES, is_place, places
from jaxrl_llm.models.hf.read import INDEX, SINGLE
from jaxrl_llm.models.llama import LlamaConfig, llama_specs
from jaxrl_llm.types import Head, Json, Params, ScoreScale

Dtype = Literal["float32", "bfloat16"]
CODES = {"float32": "F32", "bfloat16": "BF16"}


class Tensor(NamedTuple):
    """A tensor to be written: it is fetched when its turn comes."""

    name: str
    shape: tuple[int, ...]
    fetch: Any  # () -> float32 array of this shape
    n_bytes: int


def write_model(
    directory: Path,
    model: LlamaConfig,
    head: Head,
    params: Params,
    *,
    dtype: Dtype,
    max_shard: int,
    special: Json,
    score: ScoreScale | None = None,
) -> list[Path]:
    """Write config.json, generation_config.json (of a language model) and the weights; returns the weights' files.

    `special` has bos_token_id, eos_token_id (one or a list) and pad_token_id; None where there is none.

    Raises:
        UserError: no Hugging Face family has all of the model's options; nothing is written then.
    """
    config = config_json(model, head, dtype, special, score)
    write_json(directory / CONFIG, config)
    if head == "lm":
        write_json(directory / "generation_config.json", {k: v for k, v in special.items() if v is not None})
    return write_weights(directory, list(tensors_of(params, llama_specs(model, head), dtype)), dtype, max_shard)


def tensors_of(params: Params, specs: Params, dtype: Dtype, names: Mapping[str, str] = NAMES) -> Iterator[Tensor]:
    """The foreign tensors that our weights are."""
    width = np.dtype(dtype).itemsize
    where = jax.tree.leaves(places(specs, names), is_leaf=is_place)
    for place, weight in zip(where, jax.tree.leaves(params), strict=True):
        for i, name in enumerate(place.names):

            def fetch(place: Any = place, weight: Array = weight, i: int = i) -> np.ndarray:
                return place.to_foreign(np.asarray(_layer(weight, i) if place.stacked else weight))

            yield Tensor(name, place.shape, fetch, width * int(np.prod(place.shape)))


@partial(jax.jit)
def _layer(stack: Array, i: int) -> Array:
    return jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)


def write_weights(directory: Path, tensors: Sequence[Tensor], dtype: Dtype, max_shard: int) -> list[Path]:
    """One file, or shards of at most `max_shard` bytes (a larger tensor has one of its own) and their index."""
    shards = cut_into_shards(tensors, max_shard)
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        write_json(
            directory / INDEX,
            {
                "metadata": {"total_size": sum(tensor.n_bytes for tensor in tensors)},
                "weight_map": {
                    tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
                },
            },
        )
    for name, shard in zip(names, shards, strict=True):
        with (directory / name).open("wb") as file:
            write_shard(file, shard, dtype)
    return [directory / name for name in names]


def cut_into_shards(tensors: Sequence[Tensor], max_shard: int) -> list[list[Tensor]]:
    """Tensors in their order, a new shard wherever the next one would not fit."""
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if not shards or tensor.n_bytes > room:
            shards.append([])
            room = max_shard
        shards[-1].append(tensor)
        room -= tensor.n_bytes
    return shards


def write_shard(file: BinaryIO, tensors: Sequence[Tensor], dtype: Dtype) -> None:
    """A whole safetensors file."""
    header: Json = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    start = 0
    for tensor in tensors:
        end = start + tensor.n_bytes
        header[tensor.name] = {"dtype": CODES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors:
        np.ascontiguousarray(tensor.fetch(), np.dtype(dtype)).tofile(file)


def write_json(path: Path, value: Json) -> None:
    """A JSON file as people read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
