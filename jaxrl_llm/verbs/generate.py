"""`generate MODEL`: sample from a trained model, from prompts on the line, in a file or in JSONL."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from jaxrl_llm.workdir import Opened

HELP = "sample from a trained model"
BATCH = 64  # prompts sampled together


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("model", help="a run directory, or RUN/checkpoints/STEP")
    parser.add_argument("--prompt", action="append", help='text to continue; may be given again; default: ""')
    parser.add_argument("--prompts", metavar="FILE", help='a prompt a line, or JSONL rows {"prompt": ...} (.jsonl)')
    parser.add_argument("--n", type=int, default=1, help="completions of each prompt (default 1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token (default 1.0)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that hold this probability only")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest completion (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (default 0)")
    parser.add_argument(
        "--out", metavar="FILE", help="write JSONL rows {prompt, completion, ended} instead of printing"
    )


def run(args: argparse.Namespace) -> int:
    """Sample; returns 0."""
    check(args)
    prompts = read_prompts(args)
    out = Path(args.out) if args.out else None
    if out is not None and out.exists():
        raise UserError(f"--out {out}: is there already, and shall not be overwritten")

    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.workdir import open_model

    runtime.start()
    rows = sample(open_model(args.model), prompts, args)
    if out is None:
        for row in rows:
            print(f"{row['prompt']}{row['completion']}{'' if len(rows) == 1 else chr(10) + '---'}")
        return 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    print(f"{len(rows)} completions -> {out}")
    return 0


def check(args: argparse.Namespace) -> None:
    """A UserError for numbers that mean nothing."""
    wrong = {
        "--n must be at least 1": args.n < 1,
        "--max-new-tokens must be at least 1": args.max_new_tokens < 1,
        "--temperature must be 0 or more": not args.temperature >= 0,
        "--top-k must be at least 1": args.top_k is not None and args.top_k < 1,
        "--top-p must lie in (0, 1]": args.top_p is not None and not 0 < args.top_p <= 1,
        "--seed must lie between 0 and 2**32 - 1": not 0 <= args.seed < 2**32,
        "--prompt and --prompts exclude each other": bool(args.prompt and args.prompts),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of the command line or of the file."""
    if not args.prompts:
        return args.prompt or [""]
    path = Path(args.prompts)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {path}: cannot be read: {error}") from error
    prompts = [line if path.suffix != ".jsonl" else json_prompt(path, i, line) for i, line in enumerate(lines, start=1)]
    if not prompts:
        raise UserError(f"--prompts {path}: is empty")
    return prompts


def json_prompt(path: Path, number: int, line: str) -> str:
    """The prompt of one JSONL row."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'{path}:{number}: expected a row like {{"prompt": "..."}}')
    return row["prompt"]


def sample(opened: "Opened", prompts: list[str], args: argparse.Namespace) -> list[dict]:
    """Rows {prompt, completion, ended}, the n completions of a prompt together."""
    import jax

    from jaxrl_llm.rollout.sampler import make_sampler

    tokenizer = opened.tokenizer
    sampler = make_sampler(
        opened.model,
        opened.mesh,
        eos_id=tokenizer.eos_id,
        context=opened.config.model.context,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
    )
    wanted = [prompt for prompt in prompts for _ in range(args.n)]
    key, rows = jax.random.key(args.seed), []
    for first in range(0, len(wanted), BATCH):
        some = wanted[first : first + BATCH]
        ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in some]
        for prompt, completion in zip(some, sampler(opened.params, ids, jax.random.fold_in(key, first)), strict=True):
            text = tokenizer.decode(completion.tokens)
            rows.append({"prompt": prompt, "completion": text, "ended": completion.ended})
    return rows
