"""`chat MODEL`: talk with a model in the terminal; answers come as they are written."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs.generate import add_sampling, wrong_sampling

if TYPE_CHECKING:
    from jaxrl_llm.data.chat import Message
    from jaxrl_llm.saved import Opened

HELP = "talk with a model"
COMMANDS = "/reset begins a new dialogue, /exit or Ctrl-D leaves, Ctrl-C stops an answer"
CHUNK = 4  # tokens written between two looks: small, so that text flows


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("model", help="a run directory, RUN/checkpoints/STEP, or a directory of Hugging Face or PEFT")
    parser.add_argument(
        "--template", help="chatml, llama2, llama3, mistral, plain or a Jinja file; default: the model's"
    )
    parser.add_argument("--system", help="what the system message says")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest answer (default 512)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same answers (default 0)")
    add_sampling(parser)
    parser.epilog = COMMANDS


def run(args: argparse.Namespace) -> int:
    """Talk until the end of input; returns 0."""
    wrong = {
        "--max-new-tokens must be at least 1": args.max_new_tokens < 1,
        "--seed must lie between 0 and 2**32 - 1": not 0 <= args.seed < 2**32,
        **wrong_sampling(args),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)

    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.saved import open_model

    runtime.start()
    answer = make_answer(open_model(args.model), args)
    print(COMMANDS)
    opening = [{"role": "system", "content": args.system}] if args.system else []
    messages: list[Message] = list(opening)
    while (line := read_line()) is not None and line != "/exit":
        if line == "/reset":
            messages = list(opening)
            print("(a new dialogue)")
        elif line.startswith("/"):
            print(f"{line} is no command: {COMMANDS}")
        elif line:
            try:
                text = answer([*messages, {"role": "user", "content": line}])
            except UserError as error:  # too long by now, or refused by the template: the dialogue is still there
                print(f"error: {error}\n  /reset begins a new dialogue")
                continue
            messages += [{"role": "user", "content": line}, {"role": "assistant", "content": text}]
    return 0


def read_line() -> str | None:
    """What was typed, without white space around it; None at the end of input.  Ctrl-C begins the line anew."""
    while True:
        try:
            return input("\n> ").strip()
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return None


def make_answer(opened: "Opened", args: argparse.Namespace) -> "Callable[[list[Message]], str]":
    """`answer(messages)`: prints the model's next turn as it is written, and returns it."""
    from jaxrl_llm.data.chat import chat_stop_ids, find_template, tokenize_prompt
    from jaxrl_llm.data.streaming import Detokenizer
    from jaxrl_llm.rollout.sampler import Sampler
    from jaxrl_llm.verbs.generate import sampling_config

    tokenizer, context = opened.tokenizer, opened.config.model.context
    template = find_template(tokenizer, args.template)
    stop_ids = chat_stop_ids(tokenizer, template)
    sampler = Sampler(
        opened.model,
        opened.mesh,
        sampling_config(args),
        stop_ids=sorted(stop_ids),
        context=context,
        slots=1,
        chunk=CHUNK,
        cache_step=context,  # so that a growing dialogue compiles nothing anew
    )

    def answer(messages: "list[Message]") -> str:
        prompt = tokenize_prompt(tokenizer, template, messages)
        room = context - len(prompt)
        if room < 1:
            raise UserError(f"the dialogue has {len(prompt)} tokens; the model reads {context}")
        text, written, shown = Detokenizer(tokenizer, continued=True), [""], 0

        def watch(_prompt: int, _sample: int, tokens: list[int]) -> None:
            nonlocal shown
            for token in tokens[shown:]:
                written.append("" if token in stop_ids else text.push(token))
                sys.stdout.write(written[-1])
            sys.stdout.flush()
            shown = len(tokens)

        try:
            sampler(
                opened.params,
                [prompt],
                max_new_tokens=min(args.max_new_tokens, room),
                seed=(args.seed + len(messages)) % 2**32,
                watch=watch,
            )
        except KeyboardInterrupt:
            sys.stdout.write(" (stopped)")
        print(text.flush())
        return "".join(written).strip()  # as templates have answers; many models begin with a space

    return answer
