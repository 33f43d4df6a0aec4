"""Safetensors into our weights: each device's shard is cut out of the files and put where it lives, in float32.

Host memory holds one shard of one weight at a time, and one layer's piece of it as it is on disk: never the model.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, Sharding
from safetensors import SafetensorError, safe_open

from jaxrl_llm.errors import UserError
from jaxrl_llm.models.hf.configs import CONFIG, read_json
from jaxrl_llm.models.hf.names import EMBED, UNEMBED, Place, is_place, places
from jaxrl_llm.parallel.specs import is_spec, shardings
from jaxrl_llm.types import Params

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16")
BUFFER = ".rotary_emb.inv_freq"  # old checkpoints store this table; it follows from the config
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
ROWS = 4096  # of an embedding, compared at once
SHOWN = 8  # faults that one message lists


class Tensor(NamedTuple):
    """A tensor that is there."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it: F32, BF16, ...


def read_weights(directory: Path, specs: Params, mesh: Mesh) -> Params:
    """The weights of a Hugging Face directory, float32, sharded over the mesh.

    Raises:
        UserError: a file is missing, damaged, a pickle, or outside of the directory; or a tensor is missing, of another
            shape or dtype than the specs say, or belongs to no weight of ours.
    """
    tensors, n_layers = find_tensors(directory), jax.tree.leaves(specs["layers"], is_leaf=is_spec)[0].shape[0]
    if n_layers > len(tensors):  # said before the names of so many layers are made
        raise UserError(
            f"{directory}: config.json says {n_layers:,} layers, and there are {len(tensors)} tensors in all"
        )
    wanted = places(specs)
    refuse_others(directory, CONFIG, tensors, jax.tree.leaves(wanted, is_leaf=is_place))
    return load_places(tensors, wanted, shardings(specs, mesh))


def load_places(tensors: Mapping[str, Tensor], wanted: Params, where: Params) -> Params:
    """The weights of a tree of Places, float32, into a like tree of shardings."""

    def load(place: Place, sharding: Sharding) -> Array:
        shape = place.spec.shape
        devices: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            bounds = tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))
            devices.setdefault(bounds, []).append(device)
        copies = []
        for bounds, holders in devices.items():
            shard = read_shard(tensors, place, tuple(slice(*bound) for bound in bounds))
            copies += [jax.device_put(shard, device) for device in holders]
            jax.block_until_ready(copies)  # or the host would hold the next shard beside this one
        return jax.make_array_from_single_device_arrays(shape, sharding, copies)

    return jax.tree.map(load, wanted, where, is_leaf=is_place)


def read_shard(tensors: Mapping[str, Tensor], place: Place, index: tuple[slice, ...]) -> np.ndarray:
    """The part of one of our weights that `index` cuts out, float32."""
    shard = np.empty([part.stop - part.start for part in index], np.float32)
    names, rows = (place.names[index[0]], shard) if place.stacked else (place.names, shard[None])
    for name, row in zip(names, rows, strict=True):
        row[...] = place.to_ours(cut(tensors[name], name, place.foreign_slices(index)), row.shape)
    return shard


def cut(tensor: Tensor, name: str, slices: tuple[slice, ...]) -> np.ndarray:
    """A piece of a tensor, in its dtype.  The file is closed again: a mapped page counts as memory of ours."""
    with safe_open(tensor.file, "numpy") as file:
        return file.get_slice(name)[slices]


def find_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a directory by name; only the files' headers are read."""
    return tensors_in(weight_files(directory))


def tensors_in(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of these files by name."""
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, "numpy") as file:
                for name in file.keys():  # noqa: SIM118 (it is no dict)
                    if name in tensors:
                        raise UserError(f"{path}: {name} is in {tensors[name].file.name} too")
                    view = file.get_slice(name)
                    tensors[name] = Tensor(path, tuple(view.get_shape()), view.get_dtype())
        except SafetensorError as error:
            raise UserError(f"{path}: is cut short or damaged ({error})\n  mend: download it again") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    return tensors


def weight_files(directory: Path) -> list[Path]:
    """model.safetensors, or the shards that its index names."""
    if (directory / SINGLE).is_file():
        return [_inside(directory, SINGLE, SINGLE)]
    index = directory / INDEX
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f"{index}: has no weight_map of tensor names to file names\n  mend: download it again")
        return [_inside(directory, name, INDEX) for name in sorted(set(names.values()))]
    if pickled := sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES):
        raise _pickled(directory, pickled[0])
    raise UserError(f"{directory}: has no weights: neither {SINGLE} nor {INDEX} is there")


def _inside(directory: Path, name: str, source: str) -> Path:
    """The file of this name, which must not lie outside of the directory."""
    root = directory.resolve()
    path = root / name
    # The hub's cache is .../models--NAME/{snapshots/REVISION, blobs}, and its snapshots are links into its blobs.
    home = root.parents[1] if root.parent.name == "snapshots" else root
    if ".." in PurePath(name).parts or not path.resolve().is_relative_to(home):
        raise UserError(f"{directory / source}: {name} lies outside of the directory, and is not read")
    if path.suffix in PICKLES:
        raise _pickled(directory, name)
    if not path.is_file():
        raise UserError(f"{directory}: the file {name} is missing, which {source} names\n  mend: download it again")
    return path


def _pickled(directory: Path, name: str) -> UserError:
    return UserError(
        f"{directory / name}: is a pickle, which can run any code when it is opened, so it is not read\n"
        "  mend: convert it to safetensors, where you trust it and have torch and transformers:\n"
        f"    python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{directory}')"
        ".save_pretrained('OUT')\""
    )


def refuse_others(directory: Path, source: str, tensors: Mapping[str, Tensor], wanted: list[Place]) -> None:
    """A UserError that names each tensor that is missing, too many, or not of the shape or dtype `source` says."""
    faults = list(_faults(source, tensors, wanted))
    if faults:
        more = [f"  and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise UserError(
            "\n".join([f"{directory}: the weights are not those of {source}:", *faults[:SHOWN], *more])
            + f"\n  mend: the {source} that belongs to these weights"
        )


def _faults(source: str, tensors: Mapping[str, Tensor], wanted: list[Place]) -> Iterator[str]:
    shapes = {name: place.shape for place in wanted for name in place.names}
    for name, shape in shapes.items():
        if name not in tensors:
            yield f"  {name} is missing; by {source} it is {list(shape)}"
        elif tensors[name].shape != shape:
            yield f"  {name} is {list(tensors[name].shape)}; by {source} it is {list(shape)}"
        elif tensors[name].dtype not in DTYPES:
            yield f"  {name} is of dtype {tensors[name].dtype}; known are {', '.join(DTYPES)}"
    tied = UNEMBED not in shapes and "score.weight" not in shapes
    for name, tensor in tensors.items():
        if name in shapes or name.endswith(BUFFER):
            continue
        if name == UNEMBED and tied and EMBED in tensors:
            if not _equal(tensor, UNEMBED, tensors[EMBED], EMBED):
                yield f"  {name} differs from {EMBED}, though config.json says tie_word_embeddings"
        else:
            yield f"  {name} {list(tensor.shape)} is one too many"


def _equal(a: Tensor, name_a: str, b: Tensor, name_b: str) -> bool:
    """Whether two tables hold the same, a few rows at a time."""
    blocks = [(slice(row, min(row + ROWS, a.shape[0])),) for row in range(0, a.shape[0], ROWS)]
    return (a.shape, a.dtype) == (b.shape, b.dtype) and all(
        np.array_equal(cut(a, name_a, block), cut(b, name_b, block)) for block in blocks
    )
