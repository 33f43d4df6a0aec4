"""LoRA adapters in the format of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

Theirs is a pair of matrices for each adapted weight of each layer, lora_A [r, inputs] and lora_B [outputs, r].  Which
weights are adapted is read from the tensors: `target_modules` may be a list, a pattern or `all-linear`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from pydantic import ValidationError

from jaxrl_llm.errors import UserError
from jaxrl_llm.models.hf.configs import read_json
from jaxrl_llm.models.hf.names import NAMES, is_place, places
from jaxrl_llm.models.hf.read import Tensor, load_places, refuse_others, tensors_in
from jaxrl_llm.models.hf.write import Dtype, tensors_of, write_json, write_shard
from jaxrl_llm.models.lora import TARGETS, LoraConfig
from jaxrl_llm.parallel.specs import shardings
from jaxrl_llm.types import Head, Json, Params

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
FOREIGN = {target: NAMES[f"layers.{target}"].removesuffix(".weight") for target in TARGETS}
ADAPTER_NAMES: Mapping[str, str] = {
    f"layers.{target}.{ours}": f"{PREFIX}{name}.{theirs}.weight"
    for target, name in FOREIGN.items()
    for ours, theirs in {"a": "lora_A", "b": "lora_B"}.items()
} | {"score": f"{PREFIX}{NAMES['score']}"}

# Keys that change the function, with the values that leave it as it is here (what is null, false or empty always does).
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # Others (pissa, olora, corda, loftq) change the base model's weights as well.
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),
    "modules_to_save": (["score"], ["classifier", "score"], ["score", "classifier"]),
} | dict.fromkeys(
    (
        "use_dora",
        "lora_bias",
        "fan_in_fan_out",
        "rank_pattern",
        "alpha_pattern",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "use_qalora",
        "use_bdlora",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "velora_config",
        "monteclora_config",
    ),
    (),
)


def is_adapter(directory: Path) -> bool:
    """Whether this is a directory of PEFT's."""
    return (directory / CONFIG).is_file()


def base_model(directory: Path) -> tuple[Path, Head]:
    """The directory of the model that an adapter was trained on, and the head of the two together.

    A path that is not absolute is seen from here, as PEFT does, or else from the adapter.

    Raises:
        UserError: the adapter names none that is on this machine.
    """
    raw, path = _read_config(directory), directory / CONFIG
    name = raw.get("base_model_name_or_path")
    head: Head = "scalar" if raw.get("task_type") == "SEQ_CLS" else "lm"
    for base in (Path(name), directory / name) if isinstance(name, str) and name else ():
        if is_adapter(base):
            raise UserError(f"{path} names another adapter, {name}\n  mend: `export` that one, which adds it in")
        if base.is_dir():
            return base, head
    said = f"the base model {name!r:.200}, which is no directory here" if name else "no base model"
    raise UserError(
        f"{path} names {said}\n  mend: write there, as base_model_name_or_path, the directory of the model that the "
        "adapter was trained on\n        (`hf download NAME --local-dir DIR` fetches one)"
    )


def describe_adapter(directory: Path) -> LoraConfig:
    """The config of the adapter that a directory holds, with `adapter` naming it; of the weights, names are read alone.

    Raises:
        UserError: there is none, it is broken, or it does what we do not.
    """
    raw, path = _read_config(directory), directory / CONFIG
    for key, neutral in NEUTRAL.items():
        if raw.get(key) and raw[key] not in neutral:
            raise UserError(
                f"{path}: {key}={raw[key]!r:.60} is not supported: the model would compute something else here"
            )
    tensors = _tensors(directory)
    targets = [t for t in TARGETS if any(re.fullmatch(_pattern(t), name) for name in tensors)]
    try:
        rank, alpha = raw["r"], raw.get("lora_alpha", 8)  # PEFT's default
        if raw.get("use_rslora"):  # alpha / sqrt(r) there, alpha / r here
            alpha *= math.sqrt(rank)
        return LoraConfig(
            rank=rank,
            alpha=alpha,
            targets=tuple(targets),
            dropout=raw.get("lora_dropout", 0.0),
            adapter=str(directory),
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ValidationError):
            found = "; ".join(f"{e['loc'][0]}: {e['msg'].lower()}, found {e['input']!r:.60}" for e in error.errors())
        else:
            found = f"r={raw.get('r')!r:.60} and lora_alpha={raw.get('lora_alpha')!r:.60} are not two numbers"
        raise UserError(f"{path}: {found}") from error


def refuse_other_adapter(directory: Path, lora: LoraConfig) -> None:
    """A UserError where a directory holds no adapter, or another than `lora` says."""
    found = describe_adapter(directory)
    differs = [
        f"trainable.{key}={shown}"
        for key, same, shown in (
            ("rank", found.rank == lora.rank, found.rank),
            ("alpha", math.isclose(found.alpha, lora.alpha, rel_tol=1e-6), f"{found.alpha:.8g}"),
            ("targets", set(found.targets) == set(lora.targets), f"[{','.join(found.targets)}]"),
        )
        if not same
    ]
    if differs:
        raise UserError(f"{directory}: is an adapter of another kind than the config's\n  mend: {' '.join(differs)}")


def read_adapter(directory: Path, lora: LoraConfig, specs: Params, mesh: Mesh) -> Params:
    """An adapter as the trained weights of `specs` (a Trainable's), float32, sharded over the mesh.

    Raises:
        UserError: the directory holds none, or another than `lora` and `specs` say.
    """
    refuse_other_adapter(directory, lora)
    tensors, wanted = _tensors(directory), places(specs, ADAPTER_NAMES)
    refuse_others(directory, CONFIG, tensors, jax.tree.leaves(wanted, is_leaf=is_place))
    return load_places(tensors, wanted, shardings(specs, mesh))


def write_adapter(
    directory: Path, lora: LoraConfig, trained: Params, specs: Params, *, dtype: Dtype, base: str | None = None
) -> Path:
    """Write the trained weights of `specs` (a Trainable's) for PEFT; returns the file of the weights.

    `base` names the base model, for those who load the adapter without saying which it belongs to.

    Raises:
        UserError: there is a safety head, of which PEFT knows nothing; nothing is written then.
    """
    if "safety" in specs:
        raise UserError("a safety head cannot stand in an adapter of PEFT's format\n  mend: export the merged model")
    tensors = list(tensors_of(trained, specs, dtype, ADAPTER_NAMES))
    config: Json = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if "score" in specs else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "use_rslora": False,
        "lora_dropout": lora.dropout,
        "target_modules": [FOREIGN[target].rpartition(".")[2] for target in lora.targets],
        "modules_to_save": ["score"] if "score" in specs else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_json(directory / CONFIG, config)
    with (directory / WEIGHTS).open("wb") as file:
        write_shard(file, tensors, dtype)
    return directory / WEIGHTS


def _read_config(directory: Path) -> Json:
    if not is_adapter(directory):
        raise UserError(
            f"{directory}: has no {CONFIG}, so it is no adapter of PEFT's\n  mend: name a directory that has one"
        )
    return read_json(directory / CONFIG)


def _tensors(directory: Path) -> dict[str, Tensor]:
    if not (directory / WEIGHTS).is_file():
        found = (
            f"{PICKLE} is a pickle, which can run any code when it is opened" if (directory / PICKLE).exists() else ""
        )
        raise UserError(f"{directory}: {WEIGHTS} is missing{'; ' * bool(found) + found}")
    return tensors_in([directory / WEIGHTS])


def _pattern(target: str) -> str:
    return re.escape(ADAPTER_NAMES[f"layers.{target}.a"]).replace(r"\{\}", r"\d+")
