"""`import DIR OUT`: a Hugging Face model as a run directory, which everything else opens, continues and exports."""

import argparse

HELP = "Make a run directory of a Hugging Face model: config.yaml, checkpoints/0 and the tokenizer."


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("directory", metavar="DIR", help="config.json, *.safetensors and the tokenizer's files")
    parser.add_argument("out", metavar="OUT", help="the run directory to be made")


def run(args: argparse.Namespace) -> int:
    """Import; returns 0."""
    from pathlib import Path

    import jax
    import jax.numpy as jnp

    from jaxrl_llm.config import dump, of_huggingface, save
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.parallel.mesh import make_mesh
    from jaxrl_llm.saved import find_huggingface
    from jaxrl_llm.training.checkpoint import Checkpoints
    from jaxrl_llm.types import TrainState
    from jaxrl_llm.workdir import CONFIG, new_directory

    runtime.start()
    source, out = Path(args.directory), Path(args.out)
    resolved, found = of_huggingface(source, args.out), find_huggingface(source)
    with new_directory(out) as draft:
        mesh = make_mesh(found.config.mesh)
        params = {role: found.weights(role, mesh) for role in found.card.heads}
        save(resolved, draft / CONFIG)
        checkpoints = Checkpoints(draft, found.config.checkpoint)
        state = TrainState(step=jnp.zeros((), jnp.int32), params=params, fixed={}, opt_state={})
        checkpoints.save(state, ({}, {}), found.card.to_json() | {"config": dump(resolved)})
        checkpoints.close()
    n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{source}: {n_params:,} parameters ({', '.join(params)}) -> {out}")
    return 0
