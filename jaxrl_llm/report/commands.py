"""What to type after a run, by what it trained."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

JUDGES = ("reward", "dpo", "simpo", "orpo", "kto")  # algorithms whose models tell the better answer


def commands(workdir: Path, config: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Purpose -> command."""
    kind: str | None = config.get("algo.kind")

    def path(end: str = "") -> str:
        return shlex.quote(f"{workdir}{end}")

    found = {}
    prompt = samples[-1].get("prompt", "").strip().split("\n")[0] if samples else ""
    if kind in (None, "pretrain"):
        found["let it write"] = f"jaxrl-llm generate {path()} --prompt {shlex.quote(prompt or 'Once upon a time')}"
    elif kind != "reward":
        found["talk with it"] = f"jaxrl-llm chat {path()}"
    if kind == "sft":
        for stage, what in (("reward", "a reward model"), ("dpo", "DPO")):
            found[f"{what} from it, by one of configs/{stage}"] = (
                f"jaxrl-llm train {stage}/CONFIG init_from={path()} data.path=PAIRS.jsonl workdir={path(f'-{stage}')}"
            )
    if kind in JUDGES:
        found["which answers it finds better"] = (
            f"jaxrl-llm evaluate {path()} --suite rewardbench --data QUESTIONS.json --out {path('-rewardbench')}"
        )
    if "data.task" in config:
        before = f" --before {shlex.quote(config['init_from'])}" if "init_from" in config else ""
        found["how many problems it solves"] = f"jaxrl-llm evaluate {path()} --suite task{before}"
    if kind not in (None, "pretrain"):
        found["for Hugging Face's transformers"] = f"jaxrl-llm export {path()} {path('-hf')}"
    found["run it again"] = f"jaxrl-llm train {path('/config.yaml')} workdir={path('-again')}"
    if kind in (None, "pretrain"):
        further = f"jaxrl-llm train OTHER.yaml init_from={path()} workdir={path('-onward')}"
        found["train it further, by another config"] = further
    if (workdir / "tensorboard").is_dir():
        found["look at all curves"] = f"tensorboard --logdir {path('/tensorboard')}"
    return found
