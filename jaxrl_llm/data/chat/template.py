"""A chat template: the model's own Jinja text, or one of those that come with the package."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrl_llm.data.chat import sandbox
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError

Message = Mapping[str, str]  # {"role": "user", "content": "Who wrote Faust?"}; roles: system, user, assistant
BUNDLED = {path.stem: path for path in sorted((Path(__file__).parent.parent / "templates").glob("*.jinja"))}
SOURCE = 1 << 18  # characters of a template at most
# What a base model's vocabulary tells of the template that its special tokens were made for.
MARKERS = {"<|im_start|>": "chatml", "<|start_header_id|>": "llama3"}


@dataclass(frozen=True)
class Template:
    """Jinja text, and how the tokenizer that it works with spells BOS and EOS.  `name` stands in errors.

    Raises:
        UserError: the text is too long.
    """

    name: str
    source: str
    bos_token: str | None = None
    eos_token: str | None = None

    def __post_init__(self) -> None:
        if len(self.source) > SOURCE:
            raise UserError(f"chat template {self.name}: {len(self.source):,} characters, and {SOURCE:,} are allowed")

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation, as `apply_chat_template` of transformers has it, BOS and all.

        Raises:
            UserError: a message is no message; the template refuses them, is no Jinja, reaches for what is none of its
                business, or takes too long.
        """
        check_messages(messages)
        (text,) = self.render_all([(messages, add_generation_prompt)])
        if isinstance(text, UserError):
            raise text
        return text

    def render_all(self, calls: Sequence[tuple[Sequence[Message], bool]], **variables: str) -> list[str | UserError]:
        """The text of each (messages, add_generation_prompt), or the error that it ends in."""
        shared: dict[str, Any] = {"tools": None, **variables}
        shared |= {"bos_token": self.bos_token} if self.bos_token is not None else {}
        shared |= {"eos_token": self.eos_token} if self.eos_token is not None else {}
        found = sandbox.render(
            self.source,
            [
                {"messages": [dict(message) for message in messages], "add_generation_prompt": prompt, **shared}
                for messages, prompt in calls
            ],
        )
        return [UserError(f"chat template {self.name}: {t}") if isinstance(t, UserError) else t for t in found]


def find_template(tokenizer: Tokenizer, name: str | None = None) -> Template:
    """The template of a name or a file; without one the tokenizer's own, else the bundled one that fits best.

    Raises:
        UserError: there is no such template, or its file cannot be read.
    """
    spelled = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token or None}
    if name is None and tokenizer.chat_template is not None:
        return Template("of the model", tokenizer.chat_template, **spelled)
    if name is None:
        name = next((name for marker, name in MARKERS.items() if marker in tokenizer.specials), "plain")
    path = BUNDLED.get(name, Path(name).expanduser())
    try:
        return Template(name, path.read_text(encoding="utf-8"), **spelled)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"chat template {name}: {getattr(error, 'strerror', None) or 'not UTF-8'}\n"
            f"  mend: name a file of Jinja text, or one of {', '.join(BUNDLED)}"
        ) from error


def with_bos(tokenizer: Tokenizer, source: str) -> str:
    """The template of a tokenizer as transformers wants it: there nothing but the template itself writes BOS."""
    template = Template("of the model", source, tokenizer.bos_token, tokenizer.eos_token or None)
    [text] = template.render_all([([{"role": "user", "content": "a"}], False)])
    if not tokenizer.adds_bos or not tokenizer.bos_token or isinstance(text, UserError):
        return source
    return source if text.startswith(tokenizer.bos_token) else "{{ bos_token }}" + source


def check_messages(messages: Sequence[Message]) -> None:
    """Raises UserError unless each message has a role, a word, and a content, a string."""
    for message in messages:
        found = [message.get(key) if isinstance(message, Mapping) else None for key in ("role", "content")]
        if not all(isinstance(each, str) for each in found) or not str(found[0]).isidentifier():
            raise UserError(f"a message must have a role, a word, and a content, a string, and not be {message!r:.200}")
