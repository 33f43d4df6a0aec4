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

    import jax.numpy as jnp

    from jaxrl_llm.config import dump, of_huggingface, save
    from jaxrl_llm.models import build_model
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.parallel.mesh import make_mesh
    from jaxrl_llm.parallel.specs import count_params
    from jaxrl_llm.training.checkpoint import Checkpoints
    from jaxrl_llm.types import TrainState
    from jaxrl_llm.workdir import CONFIG, find_huggingface, new_directory

    runtime.start()
    source, out = Path(args.directory), Path(args.out)
    resolved, found = of_huggingface(source, args.out), find_huggingface(source)
    with new_directory(out) as draft:
        mesh = make_mesh(found.config.mesh)
        models = {
            role: build_model(found.config.model, found.config.compute, mesh, head)
            for role, head in found.card.heads.items()
        }
        params = found.weights(models, mesh)
        save(resolved, draft / CONFIG)
        checkpoints = Checkpoints(draft, found.config.checkpoint)
        state = TrainState(step=jnp.zeros((), jnp.int32), params=params, fixed={}, opt_state={})
        checkpoints.save(state, ({}, {}), found.card.to_json() | {"config": dump(resolved)})
        checkpoints.close()
    n_params = count_params({role: model.specs for role, model in models.items()})
    print(f"{source}: {n_params:,} parameters ({', '.join(models)}) -> {out}")
    return 0
