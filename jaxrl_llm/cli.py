"""The command line: names the verbs, imports each only when it is asked for, and turns every end into an exit code.

Exit codes: 0 done; 1 a bug; 2 wrong usage, config or data; others as errors.py says; 43 another process of the run is
gone; 130 interrupted; 141 nobody reads.
"""

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from jaxrl_llm import __version__
from jaxrl_llm.errors import JaxrlError

LOST = 43  # exit code: another process of the run is gone


class Verb(NamedTuple):
    """One line of help, and how to get the module: `HELP`, `configure(parser)`, `run(args) -> exit code`."""

    summary: str
    module: Callable[[], ModuleType]


def _train() -> ModuleType:
    from jaxrl_llm.verbs import train

    return train


def _run() -> ModuleType:
    from jaxrl_llm.verbs import run

    return run


def _generate() -> ModuleType:
    from jaxrl_llm.verbs import generate

    return generate


def _reject() -> ModuleType:
    from jaxrl_llm.verbs import reject

    return reject


def _label() -> ModuleType:
    from jaxrl_llm.verbs import label

    return label


def _evaluate() -> ModuleType:
    from jaxrl_llm.verbs import evaluate

    return evaluate


def _import() -> ModuleType:
    from jaxrl_llm.verbs import import_

    return import_


def _export() -> ModuleType:
    from jaxrl_llm.verbs import export

    return export


def _chat() -> ModuleType:
    from jaxrl_llm.verbs import chat

    return chat


def _data() -> ModuleType:
    from jaxrl_llm.verbs import data

    return data


def _tokenizer() -> ModuleType:
    from jaxrl_llm.verbs import tokenizer

    return tokenizer


def _plan() -> ModuleType:
    from jaxrl_llm.verbs import plan

    return plan


def _bench() -> ModuleType:
    from jaxrl_llm.verbs import bench

    return bench


def _ckpt() -> ModuleType:
    from jaxrl_llm.verbs import ckpt

    return ckpt


def _config() -> ModuleType:
    from jaxrl_llm.verbs import config

    return config


def _env() -> ModuleType:
    from jaxrl_llm.verbs import env

    return env


VERBS: dict[str, Verb] = {
    "train": Verb("train one stage; the same command resumes it", _train),
    "run": Verb("run a pipeline of stages, skipping what is done", _run),
    "generate": Verb("sample text from a run or a checkpoint", _generate),
    "chat": Verb("talk with a model in the terminal", _chat),
    "reject": Verb("sample several answers a prompt, score, select, write a data set", _reject),
    "label": Verb("compare answers in the terminal: people's feedback", _label),
    "evaluate": Verb("RewardBench, perplexity by domain, or a task", _evaluate),
    "import": Verb("a Hugging Face model into a run directory", _import),
    "export": Verb("a model into a Hugging Face directory", _export),
    "data": Verb("write a task's rows, build token shards, look at rows", _data),
    "tokenizer": Verb("train a SentencePiece tokenizer", _tokenizer),
    "plan": Verb("how much memory a run needs, and whether it fits", _plan),
    "bench": Verb("measure speed and memory", _bench),
    "ckpt": Verb("list the checkpoints of a run, verify that they are whole", _ckpt),
    "config": Verb("show, compare and describe configs", _config),
    "env": Verb("versions, devices and folders, for a report", _env),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing that a user types ends in a traceback.

    Where this is one of several processes, and fails, it ends here, and the others too.
    """
    code = _run_verb(sys.argv[1:] if argv is None else list(argv))
    if code and (ends := sys.modules.get("jaxrl_llm.parallel.ends")):  # else nobody was joined
        ends.leave(code)
    return code


def _run_verb(argv: Sequence[str]) -> int:
    try:
        try:
            code = _dispatch(argv)
        except SystemExit as end:  # argparse: --help, --version, wrong usage
            code = end.code if isinstance(end.code, int) else 0
        sys.stdout.flush()
        return code
    except JaxrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 141
    except Exception as error:
        if (ends := sys.modules.get("jaxrl_llm.parallel.ends")) and ends.is_loss(error):
            print(f"error: another process of this run is gone: {str(error).strip().splitlines()[0]}\n"
                  "  mend: read what it said last; start the same command again on all", file=sys.stderr)  # fmt: skip
            return LOST
        if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
            print(f"error: out of memory: {str(error).strip().splitlines()[0] if str(error) else 'on the host'}\n"
                  "  mend: training.micro_batches=2 or more, compute.remat=full, a larger mesh.fsdp; a smaller model, "
                  "batch or data.length", file=sys.stderr)  # fmt: skip
            return 2
        traceback.print_exc()
        print(f"error: this is a bug in jaxrl_llm {__version__}; please report it with the lines above "
              "and what `jaxrl-llm env` prints", file=sys.stderr)  # fmt: skip
        return 1


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0].startswith("-"):
        parser = _top()
        parser.parse_args(argv)
        parser.print_help()
        return 0 if argv else 2
    name, rest = argv[0], argv[1:]
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        mend = f"did you mean {near[0]}?" if near else f"there is: {', '.join(VERBS)}"
        _top().error(f"unknown verb {name!r}; {mend}")
    module = VERBS[name].module()
    parser = argparse.ArgumentParser(prog=f"jaxrl-llm {name}", description=module.HELP)
    module.configure(parser)
    return module.run(read_arguments(parser, rest))


def read_arguments(parser: argparse.ArgumentParser, given: Sequence[str]) -> argparse.Namespace:
    """The arguments of a verb whose parser is configured; overrides may stand after options too."""
    args, left = parser.parse_known_args(given)
    # argparse gives up on `*` arguments after an option: CONFIG --flag a.b=c
    late = [text for text in left if "=" in text and not text.startswith("-")] if hasattr(args, "overrides") else []
    if wrong := [text for text in left if text not in late]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if late:
        args.overrides = [*args.overrides, *late]
    return args


def _top() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    parser = argparse.ArgumentParser(
        prog="jaxrl-llm",
        usage="jaxrl-llm VERB ...",
        description="Train a Llama-style language model through its whole life, in JAX.",
        epilog="\n".join(["verbs:", *lines, "", "`jaxrl-llm VERB --help` says more."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxrl_llm {__version__}")
    return parser
