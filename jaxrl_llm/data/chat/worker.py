"""The process that renders chat templates: `python -P worker.py MEMORY`; it imports nothing of the package.

Reads a line of JSON, {"source", "calls": [variables, ...], "seconds", "output"}, and answers each call with a line
{"text": ...} or {"error": ...}.  The environment is the one that `transformers` gives to templates.
"""

import datetime
import functools
import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

BEGINS, ENDS = "generation_begins", "generation_ends"  # variables: what to write around a generation block


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which would else take what it forbids for something undefined, and write nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Called where a template reaches for an attribute that it may not have."""
        raise jinja2.exceptions.SecurityError(f"{attribute!r} of {type(obj).__name__}")


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: what the assistant writes, between two marks if the call has them."""

    tags = {"generation"}  # noqa: RUF012  declared so by Extension

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The block's content between two variables."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [jinja2.nodes.Output([jinja2.nodes.Name(name, "load")]) for name in (BEGINS, ENDS)]
        return [node.set_lineno(line) for node in (marks[0], jinja2.nodes.Scope(body), marks[1])]


class Variables(jinja2.utils.Namespace):
    """A template's variables that outlive a loop; none of Python's own names among them."""

    def __init__(*args: Any, **attributes: Any) -> None:
        self, *given = args
        jinja2.utils.Namespace.__init__(self)
        for name, value in dict(*given, **attributes).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"{name!r} of a namespace")
        super().__setitem__(name, value)


def fail(message: object) -> None:
    """`raise_exception` of templates."""
    raise jinja2.exceptions.TemplateError(str(message))


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The filter `tojson` without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=32)
def compiled(source: str) -> jinja2.Template:
    """The template of a text."""
    extensions = [Generation, jinja2.ext.loopcontrols]
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = to_json
    environment.globals = {
        "range": environment.globals["range"],  # the sandbox's, which is limited
        "namespace": Variables,
        "dict": lambda *args, **items: dict(*args, **items),
        "raise_exception": fail,
    }
    return environment.from_string(source)


def render(source: str, variables: dict[str, Any], now: Callable[[str], str], limit: int) -> str:
    """The text that a template makes of some variables; more than `limit` characters are an OverflowError."""
    parts, size = [], 0
    for part in compiled(source).generate(strftime_now=now, **variables):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise OverflowError(f"its text has more than {limit:,} characters")
    return "".join(parts)


def answer(request: dict[str, Any], variables: dict[str, Any], now: Callable[[str], str]) -> dict[str, str]:
    """The text of one call, or the error; past the time, the signal ends this process."""
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        return {"text": render(request["source"], variables, now, request["output"])}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except jinja2.exceptions.SecurityError as error:
        return {"error": f"it reaches for what is none of its business: {error}"}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it needs more memory than it may have"}
    except Exception as error:  # whatever a template can do wrong; the text says what
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the end of time ends the process
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard))
    for line in sys.stdin:
        request = json.loads(line)
        # One moment for all the calls of a request, or their texts might differ at midnight.
        now = datetime.datetime.now().strftime
        for variables in request["calls"]:
            print(json.dumps(answer(request, variables, now)), flush=True)


if __name__ == "__main__":
    main()
