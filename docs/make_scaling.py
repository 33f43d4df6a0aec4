"""Writes docs/scaling.md: what the compiler says of every large recipe on TPU slices.

    python docs/make_scaling.py FOLDER [RECIPE ...]

compiles each of RUNS whose figures are not in FOLDER yet (or those of these recipes anew), one to ten minutes each on
two cores, then writes the table of all.  It needs libtpu (`pip install 'jax[tpu]'`), and no TPU.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LONG = (  # rows of 131,072 tokens, one to eight chips
    *("data.length=131072", "data.max_length=null", "model.context=131072", "training.batch_size=8"),
    *("training.micro_batches=1", "mesh.fsdp=8", "mesh.context=8", "compute.remat=full", "compute.loss_chunks=64"),
)
RUNS: tuple[tuple[str, ...], ...] = (  # recipe, slice, overrides
    ("pretrain/llama3.1-8b", "v5p:4x4x8"),
    ("pretrain/llama3.1-8b", "v5e:16x16", "training.micro_batches=2"),
    ("pretrain/llama3.1-8b", "2xv5e:16x16", "mesh.data=2", "training.micro_batches=1"),
    ("pretrain/llama2-7b", "v5p:4x4x8", "training.micro_batches=4"),
    ("pretrain/llama2-7b", "v5e:16x16", "compute.remat=full", "training.micro_batches=4"),
    ("sft/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=1"),
    ("sft/llama3.1-8b", "v5e:8x8", "compute.remat=full", "training.micro_batches=1"),
    ("sft/llama3.1-8b", "v5p:4x4x4", *LONG),
    ("sft/llama3.1-8b_lora", "v5p:2x2x1"),
    ("sft/llama3.1-8b_lora", "v5e:4x4", "training.micro_batches=4", "compute.remat=full"),
    ("sft/llama2-70b", "v5p:4x4x4"),
    ("sft/llama2-70b", "v5e:16x16", "mesh.tensor=4"),
    ("reward/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=8"),
    ("reward/llama2-helpfulness", "v5p:2x2x4", "training.micro_batches=8"),
    ("reward/llama2-safety", "v5p:2x2x4", "training.micro_batches=8"),
    ("reward/instructgpt", "v5p:2x2x2", "training.micro_batches=4"),
    ("dpo/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=2"),
    ("simpo/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=2"),
    ("orpo/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=2"),
    ("kto/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=2"),
    ("ppo/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=2"),
    ("ppo/llama3.1-8b", "v5e:8x8", "training.micro_batches=2", "compute.remat=full"),
    ("ppo/llama2", "v5p:2x2x4", "training.micro_batches=2"),
    ("ppo/instructgpt", "v5p:2x2x4", "training.micro_batches=2"),
    ("ppo/llama2-70b", "v5p:4x4x4", "training.micro_batches=1", "compute.remat=full"),
    ("grpo/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=8"),
    ("rloo/llama3.1-8b", "v5p:2x2x4", "training.micro_batches=4"),
)
HEAD = """# Which slice each large recipe fits

**Compiled, not run.**  Each row is a recipe of 7, 8 or 70 billion weights whose very programs (the update, and of
rollouts also what lays weights out, reads prompts, writes, rates and prepares) were compiled ahead of time for a slice
of Cloud TPU, by libtpu {libtpu} and jax {jax} on a machine without one.  Nothing here was measured on a TPU.

- *memory*: the compiler's account of the fullest program on one chip, with what lies beside it, and what the chip has
  left for programs; *planned*: the same by `plan`'s formulas alone.
- *sent*: bytes that a chip sends in one update, around rings; *hidden*: share of them that travels while it computes,
  in pieces that the compiler fused with the computation, or between a start and a done with computation between.
- *stacks gathered*: all-gathers of a weight of all layers at once: there should be none.
- *at most*: tokens a second of the whole slice, by the roofline: what arithmetic, memory and links allow at best.

All rows have their command: `jaxrl-llm plan RECIPE --topology SLICE OVERRIDES` shows the whole account, and
`python docs/make_scaling.py FOLDER` makes this page.

| recipe | slice | overrides | memory of a chip | planned | sent | hidden | stacks gathered | at most |
|---|---|---|---|---|---|---|---|---|
"""
TAIL = """
Gradients are summed by all-reduce and then cut, not scattered: with this libtpu a reduce-scatter among all devices of a
slice of several hosts becomes that (one among a part of the devices stays what it is); it sends twice the bytes, and
none of them is hidden.  Most of what is hidden is weights that are gathered; what is not is mostly these sums.  Of two
or more slices of v5p it takes all links for open and gathers weights by all-reduce too: there is no row of them.
"""


def main() -> None:
    """See the module."""
    folder, chosen = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        path = folder / (" ".join(run).replace("/", "_") + ".json")
        if (run[0] in chosen) if chosen else not path.exists():
            recipe, topology, *overrides = run
            words = [sys.executable, "-m", "jaxrl_llm", "plan", recipe, "--topology", topology]
            print(*words[3:], *overrides, flush=True)
            path.unlink(missing_ok=True)
            subprocess.run([*words, "--json", str(path), *overrides], check=False, stdout=subprocess.DEVNULL)
    Path(__file__).with_name("scaling.md").write_text(page(folder), encoding="utf-8")


def page(folder: Path) -> str:
    """The whole of it."""
    from importlib.metadata import version

    rows = []
    for run in RUNS:
        path = folder / (" ".join(run).replace("/", "_") + ".json")
        if path.exists():
            rows.append(row(run, json.loads(path.read_text())))
    return HEAD.format(libtpu=version("libtpu"), jax=version("jax")) + "\n".join(rows) + "\n" + TAIL


def row(run: tuple[str, ...], found: dict[str, Any]) -> str:
    """One line of the table."""
    recipe, topology, *overrides = run
    programs = found["compiled"]
    fullest = max(programs, key=lambda each: each["peak"])
    update = next(each for each in programs if each["phase"] == "update")
    sent = sum(c["sent"] for c in update["talk"])
    fits = "" if fullest["peak"] <= found["limit"] and not any(each["refused"] for each in programs) else ", **no fit**"
    stacks = sum(each["stacks"] for each in programs)
    cells = (
        recipe,
        f"{topology} ({found['devices'].rsplit(', ', 1)[1].split(' x ')[0]} chips)",
        " ".join(f"`{text}`" for text in overrides) or "none",
        f"{gib(fullest['peak'])} of {gib(found['limit'])} GiB (`{fullest['name']}`){fits}",
        f"{gib(found['peak']['device'])} GiB (`{found['peak']['phase']}`)",
        f"{gib(sent)} GiB",
        f"{update['hidden']:.0%}",
        str(stacks),
        f"{found['roofline']['tokens_per_s']:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def gib(n_bytes: float) -> str:
    """In GiB."""
    return f"{n_bytes / 2**30:.1f}"


if __name__ == "__main__":
    main()
