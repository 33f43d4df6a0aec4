"""`chat MODEL`: talk with a model in the terminal; answers come as they are written."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs.generate import add_best_of, add_sampling, wrong_best_of, wrong_sampling

if TYPE_CHECKING:
    from jaxrl_llm.data.chat import Message, Template
    from jaxrl_llm.data.tokenizers import Tokenizer
    from jaxrl_llm.rollout.sampler import Sampler
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
    add_best_of(parser)
    parser.epilog = COMMANDS


def run(args: argparse.Namespace) -> int:
    """Talk until the end of input; returns 0."""
    wrong = {
        "--max-new-tokens must be at least 1": args.max_new_tokens < 1,
        "--seed must lie between 0 and 2**32 - 1": not 0 <= args.seed < 2**32,
        **wrong_sampling(args),
        **wrong_best_of(args),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)

    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.saved import open_model

    runtime.start()
    opening: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    opened = open_model(args.model)
    answer = make_answer(opened, args) if args.best_of is None else make_best_answer(opened, args, opening)
    print(COMMANDS)
    messages = list(opening)
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
            if text is None:
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
    from jaxrl_llm.data.chat import chat_stop_ids, find_template
    from jaxrl_llm.data.streaming import Detokenizer

    tokenizer, context = opened.tokenizer, opened.config.model.context
    template = find_template(tokenizer, args.template)
    stop_ids = chat_stop_ids(tokenizer, template)
    sampler = make_sampler(opened, args, stop_ids, slots=1, chunk=CHUNK)

    def answer(messages: "list[Message]") -> str:
        prompt, room = read_dialogue(tokenizer, template, messages, context)
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


def make_best_answer(
    opened: "Opened", args: argparse.Namespace, opening: "list[Message]"
) -> "Callable[[list[Message]], str | None]":
    """`answer(messages)`: several turns are written at once, and the one that the reward model scores highest is
    printed and returned; None where Ctrl-C came before.
    """
    from rich.console import Console

    from jaxrl_llm.best_of_n.judge import open_judge
    from jaxrl_llm.data.chat import chat_stop_ids, find_template
    from jaxrl_llm.data.prompts import written
    from jaxrl_llm.rollout.prompts import Prompt
    from jaxrl_llm.rollout.sampler import CHUNK, Stats

    n, tokenizer, context = args.best_of, opened.tokenizer, opened.config.model.context
    template = find_template(tokenizer, args.template)
    stop_ids = chat_stop_ids(tokenizer, template)
    first = Prompt((), (*opening, {"role": "user", "content": "Hello"}), "the dialogue")
    judge = open_judge(args.reward, opened.mesh, tokenizer, first, batch_size=n)
    sampler = make_sampler(opened, args, stop_ids, slots=n, chunk=CHUNK)
    screen = Console()

    def answer(messages: "list[Message]") -> str | None:
        prompt, room = read_dialogue(tokenizer, template, messages, context)

        def show(stats: Stats) -> None:
            status.update(f"{n} answers are being written: {stats.completions} done, {stats.tokens:,} tokens")

        try:
            with screen.status(f"{n} answers are being written") as status:
                (found,), _ = sampler(
                    opened.params,
                    [prompt],
                    n=n,
                    max_new_tokens=min(args.max_new_tokens, room),
                    seed=(args.seed + len(messages)) % 2**32,
                    watch=lambda *_: None,  # which has it look up every few tokens, for Ctrl-C too
                    progress=show,
                )
                status.update(f"{n} answers are being scored")
                texts = [written(tuple(messages), each.tokens, tokenizer, stop_ids) for each in found]
                scores = judge([Prompt(tuple(prompt), tuple(messages), "the dialogue")] * n, texts)
        except KeyboardInterrupt:
            print("(stopped; nothing was said)")
            return None
        best = int(scores.argmax())
        print(texts[best])
        print(f"(scored {scores[best]:.3f}; the {n} from {scores.min():.3f} to {scores.max():.3f})")
        return texts[best]

    return answer


def make_sampler(
    opened: "Opened", args: argparse.Namespace, stop_ids: frozenset[int], slots: int, chunk: int
) -> "Sampler":
    """The sampler of a dialogue."""
    from jaxrl_llm.rollout.sampler import Sampler
    from jaxrl_llm.verbs.generate import sampling_config

    context = opened.config.model.context
    return Sampler(
        opened.model,
        opened.mesh,
        sampling_config(args),
        stop_ids=sorted(stop_ids),
        context=context,
        slots=slots,
        chunk=chunk,
        cache_step=context,  # so that a growing dialogue compiles nothing anew
    )


def read_dialogue(
    tokenizer: "Tokenizer", template: "Template", messages: "list[Message]", context: int
) -> tuple[list[int], int]:
    """The tokens of a dialogue, and how many there is room for after it; a UserError where there is none."""
    from jaxrl_llm.data.chat import tokenize_prompt

    prompt = tokenize_prompt(tokenizer, template, messages)
    if len(prompt) >= context:
        raise UserError(f"the dialogue has {len(prompt)} tokens; the model reads {context}")
    return prompt, context - len(prompt)
