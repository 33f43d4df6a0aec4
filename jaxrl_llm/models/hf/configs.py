"""config.json: which Hugging Face models are ours, what of theirs is refused, and how one of ours is written.

What config.json leaves out has transformers' default for that family.  Both of its layouts are read and written:
`rope_theta` and `rope_scaling` (transformers 4), `rope_parameters` (transformers 5).
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jaxrl_llm.errors import UserError
from jaxrl_llm.models.hf.families import (
    ARCHITECTURES,
    FAMILIES,
    HEADS,
    KEYS,
    NEUTRAL,
    REQUIRED,
    ROPE_KEYS,
    ROPES,
    Family,
)
from jaxrl_llm.models.llama import LlamaConfig, RopeScaling
from jaxrl_llm.types import Head, Json, ScoreScale

CONFIG = "config.json"
SCORE_SCALE = "jaxrl_llm_score_scale"  # our key: transformers gives the raw score


@dataclass(frozen=True)
class Description:
    """What config.json says of its model."""

    model: LlamaConfig
    head: Head
    score: ScoreScale | None  # of a reward model that was made here


def is_huggingface(directory: Path) -> bool:
    """Whether this is a Hugging Face model directory (or wants to be)."""
    return (directory / CONFIG).is_file()


def read_json(path: Path) -> Json:
    """The object that a JSON file holds.  Raises UserError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent}: has no {path.name}, so it is no Hugging Face model directory\n"
            "  mend: `hf download NAME --local-dir DIR` makes one of a model on the hub"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON: {error}\n  mend: download it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def describe(directory: Path) -> Description:
    """What model a Hugging Face directory holds; no weights are opened.

    Raises:
        UserError: there is no config.json, it is broken, or it describes a model that we do not compute exactly.
    """
    path = directory / CONFIG
    raw = read_json(path)
    try:
        family, head = _architecture(raw)
        model = _model(raw, FAMILIES[family])
        score = _score_scale(raw)
    except ValidationError as error:
        faults = [f"{_foreign(str(e['loc'][0]))}: {e['msg'].lower()}, found {e['input']!r:.60}" for e in error.errors()]
        raise UserError("\n  ".join([f"{path}:", *faults])) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Description(model, head, score)


def _architecture(raw: Json) -> tuple[str, Head]:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not isinstance(name, str) or name not in ARCHITECTURES:
        found = "names no architecture" if name is None else f"the architecture {name!r} is not supported"
        raise UserError(f"{found}; supported: {', '.join(ARCHITECTURES)}")
    family, head = ARCHITECTURES[name]
    model_type = raw.get("model_type", FAMILIES[family].model_type)
    if model_type != FAMILIES[family].model_type:
        raise UserError(f"model_type {model_type!r} is not that of {name}, which is {FAMILIES[family].model_type!r}")
    labels = raw.get("id2label")
    if head == "scalar" and isinstance(labels, dict) and len(labels) != 1:
        raise UserError(f"id2label names {len(labels)} labels; a reward model has 1")
    return family, head


def _model(raw: Json, family: Family) -> LlamaConfig:
    missing = [key for key in REQUIRED.values() if raw.get(key) is None]
    if missing:
        raise UserError(f"lacks {', '.join(missing)}")
    for key, neutral in NEUTRAL.items():
        unread = key == "attention_bias" and family.qkv_bias  # Qwen2 has biases on q, k, v alone, whatever it says
        if raw.get(key) is not None and raw[key] not in neutral and not unread:
            raise _unsupported(key, raw[key])
    full = {**family.defaults, **raw}
    values: Any = {ours: full.get(theirs) for ours, theirs in KEYS.items()}
    if values["n_kv_heads"] is None:
        values["n_kv_heads"] = values["n_heads"]
    theta, scaling = _rope(full)
    model = LlamaConfig(
        **values, rope_theta=theta, rope_scaling=scaling, qkv_bias=family.qkv_bias, qk_norm=family.qk_norm
    )
    if model.channels * model.n_heads == model.d_model:
        model = replace(model, head_dim=None)  # as presets have it
    return replace(model, sliding_window=_window(full, family, model.n_layers))


def _rope(full: Json) -> tuple[Any, RopeScaling]:
    """Theta and scaling, of whichever layout config.json has."""
    given = full.get("rope_scaling") or full.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise UserError(f"rope_scaling: expected an object, found {given!r:.60}")
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPES:
        raise UserError(f"the rotary embedding {kind!r:.60} is not supported; supported: {', '.join(ROPES)}")
    named = {"rope_type": kind, "type": kind, "partial_rotary_factor": 1}
    for key, value in given.items():
        known = key == "rope_theta" or key in ROPE_KEYS[kind].values()
        if not known and value is not None and value != named.get(key):
            raise _unsupported(f"{key} of the {kind} rotary embedding", value)
    if kind == "llama3":
        original = "original_max_position_embeddings"
        given = {**given, original: full.get(original) or given.get(original) or full["max_position_embeddings"]}
    missing = [key for key in ROPE_KEYS[kind].values() if given.get(key) is None]
    if missing:
        raise UserError(f"the {kind} rotary embedding lacks {', '.join(missing)}")
    return given.get("rope_theta", full["rope_theta"]), ROPES[kind](
        **{ours: given[theirs] for ours, theirs in ROPE_KEYS[kind].items()}
    )


def _window(full: Json, family: Family, n_layers: int) -> Any:
    """The sliding window of all layers; a UserError where only some have one."""
    window = full.get("sliding_window")
    if family.window == "all layers":
        return window
    if family.window == "none" or not full.get("use_sliding_window") or window is None:
        return None
    first, kinds = full["max_window_layers"], full.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == n_layers:
        windowed = sum(kind == "sliding_attention" for kind in kinds)
    else:
        windowed = n_layers - min(max(first, 0), n_layers) if isinstance(first, int) else -1
    if windowed not in (0, n_layers):
        raise _unsupported("max_window_layers", first)
    return window if windowed else None


def _score_scale(raw: Json) -> ScoreScale | None:
    if SCORE_SCALE not in raw:
        return None
    if not isinstance(raw[SCORE_SCALE], dict):
        raise UserError(f"{SCORE_SCALE}: expected an object, found {raw[SCORE_SCALE]!r:.60}")
    return ScoreScale(**raw[SCORE_SCALE])


def _unsupported(key: str, value: Any) -> UserError:
    return UserError(f"{key}={value!r:.60} is not supported: the model would compute something else here")


def _foreign(ours: str) -> str:
    """Their name of a key of ours, for messages."""
    names = {**KEYS, **ROPE_KEYS["llama3"], "bias": f"{SCORE_SCALE}.bias"}
    return names.get(ours, ours)


def config_json(model: LlamaConfig, head: Head, dtype: str, special: Json, score: ScoreScale | None) -> Json:
    """config.json of one of our models, such that transformers 4 and 5 both read it.

    `special` has bos_token_id, eos_token_id and pad_token_id.

    Raises:
        UserError: no family has all of the model's options.
    """
    name = _family_of(model)
    family = FAMILIES[name]
    kind = next(kind for kind, rope in ROPES.items() if isinstance(model.rope_scaling, rope))
    scaling = {"rope_type": kind} | {
        theirs: getattr(model.rope_scaling, ours) for ours, theirs in ROPE_KEYS[kind].items()
    }
    raw: Json = {
        "architectures": [name + next(suffix for suffix, its in HEADS.items() if its == head)],
        "model_type": family.model_type,
        "hidden_act": "silu",
        **{theirs: getattr(model, ours) for ours, theirs in KEYS.items()},
        "head_dim": model.channels,
        "rope_theta": model.rope_theta,
        "rope_scaling": None if kind == "default" else scaling,
        "rope_parameters": {"rope_theta": model.rope_theta, **scaling},
        **special,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if family.window == "none":
        raw |= {"attention_bias": False, "mlp_bias": False}
    else:
        raw["sliding_window"] = model.sliding_window
    if family.window == "upper layers":
        windowed = model.sliding_window is not None
        raw |= {"use_sliding_window": windowed, "max_window_layers": 0 if windowed else model.n_layers}
    if head == "scalar":
        raw |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        raw |= {} if score is None else {SCORE_SCALE: asdict(score)}
    return raw


def _family_of(model: LlamaConfig) -> str:
    if model.qkv_bias and model.qk_norm:
        raise UserError(
            "model.qkv_bias and model.qk_norm together are in none of the Hugging Face families "
            f"{', '.join(FAMILIES)}, so this model cannot be exported"
        )
    if model.qkv_bias or model.qk_norm:
        return "Qwen2" if model.qkv_bias else "Qwen3"
    # Mistral is Llama with a window; without one it takes the shapes that transformers' Llama refuses.
    return "Llama" if model.sliding_window is None and model.d_model % model.n_heads == 0 else "Mistral"
