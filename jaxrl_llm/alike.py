"""What all processes of a run must have alike: compared before they compute together, where a difference would hang."""

import hashlib
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import jaxrl_llm
from jaxrl_llm.begin import Begin
from jaxrl_llm.config import flatten
from jaxrl_llm.heldout import HeldOut
from jaxrl_llm.parallel.distributed import same_everywhere
from jaxrl_llm.saved import find_model
from jaxrl_llm.workdir import CONFIG

# Keys that each host may have as it likes: they decide nothing of what is computed.
OWN = ("logging", "data.cache_dir", "data.workers", "data.prefetch")
LATE = 30  # seconds after which a shared disk shows to one host what another has written


def same_config(config: Any) -> None:
    """A UserError on every process, naming the keys, where one has another config, another version of ours or of jax,
    or sees other checkpoints in the run directory.  To be called before anything else that may differ.
    """
    if jax.process_count() == 1:
        return
    keys = {
        key: value
        for key, value in flatten(config).items()
        if not any(key == o or key.startswith(f"{o}.") for o in OWN)
    }
    saved = seen_by_all(Path(config.workdir, "checkpoints"))
    same_everywhere(keys | versions() | {"checkpoints in workdir": saved or "none"})


def seen_by_all(folder: Path) -> list[int]:
    """The checkpoints there, as soon as all processes see the same, else what this one sees after LATE seconds: right
    after a restart a shared disk may not show everyone the newest yet.
    """
    end = time.monotonic() + LATE
    while True:
        saved = sorted(int(each.name) for each in folder.glob("*") if each.name.isdecimal())
        found = multihost_utils.process_allgather(
            np.asarray([zlib.crc32(repr(saved).encode()), time.monotonic() > end])
        )
        if (found[:, 0] == found[0, 0]).all() or found[:, 1].any():
            return saved
        time.sleep(0.5)


def same_arguments(arguments: Mapping[str, object]) -> None:
    """`same_config` of a command that has arguments in place of a config."""
    if jax.process_count() > 1:
        same_everywhere({f"--{name}": value for name, value in arguments.items()} | versions())


def same_models(paths: Iterable[str | None]) -> None:
    """A UserError where models lie there that are others, judged by the sizes and the ends of their files."""
    if jax.process_count() > 1:
        same_everywhere({f"weights of {path}": glimpse(find_model(path).files()) for path in paths if path is not None})


def same_start(start: Begin) -> None:
    """A UserError where the processes have other tokenizers, or weights to begin with."""
    models = {"init_from": start.initial, "critic.init_from": start.critic}
    if jax.process_count() > 1:
        weights = {f"weights of {key}": glimpse(saved.files()) for key, saved in models.items() if saved is not None}
        same_everywhere(weights | {"tokenizer": start.tokenizer.fingerprint[:12]})


def same_stores(stores: Mapping[str, Any], held_out: HeldOut) -> None:
    """A UserError where the texts or examples are others, those held out included."""
    evaluated = {name: rows.store for name, rows in held_out.rows.items()} | dict(held_out.groups)  # type: ignore[attr-defined]
    texts = {f"content of {name}": store.fingerprint[:12] for name, store in stores.items()}
    same_everywhere(texts | {f"content of {name}, held out": each.fingerprint[:12] for name, each in evaluated.items()})


def same_texts(texts: Mapping[str, object]) -> None:
    """A UserError where what was read from files is another: of each name the objects, judged by their `repr`."""
    if jax.process_count() > 1:
        same_everywhere({name: hashlib.sha256(repr(each).encode()).hexdigest()[:12] for name, each in texts.items()})


def same_workdir(workdir: Path) -> None:
    """A UserError where a process does not see the run directory that process 0 has claimed."""
    if jax.process_count() == 1:
        return
    end = time.monotonic() + LATE
    while not (there := (workdir / CONFIG).is_file()) and time.monotonic() < end:
        time.sleep(0.5)
    same_everywhere({f"{workdir}, which must be storage that all hosts see": CONFIG if there else f"no {CONFIG}"})


def versions() -> dict[str, str]:
    """Of our code, by its content, and of jax."""
    folder, digest = Path(jaxrl_llm.__file__).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return {"jaxrl_llm": f"{jaxrl_llm.__version__}, code {digest.hexdigest()[:12]}", "jax": jax.__version__}


def glimpse(files: Iterable[Path], ends: int = 1 << 16) -> str:
    """A digest of files' names, sizes, first and last bytes: of weights it takes no time."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            digest.update(f"{file.name} {size}\n".encode())
            for place in (0, max(0, size - ends)):
                stream.seek(place)
                digest.update(stream.read(ends))
    return digest.hexdigest()[:12]
