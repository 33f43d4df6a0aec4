"""Where a chat template comes from, what it is given, and nothing that a stranger's can do."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm.data.chat import (
    BUNDLED,
    Template,
    find_template,
    sandbox,
    tokenize_chat,
)
from jaxrl_llm.data.tokenizers import BytesTokenizer, Tokenizer, load_tokenizer
from jaxrl_llm.errors import UserError
from tests.data.test_chat import talk
from tests.golden.chat_cases import tokenizer_files


def test_templates_are_found(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    assert sorted(BUNDLED) == ["chatml", "llama2", "llama3", "mistral", "plain"]
    assert find_template(BytesTokenizer()).name == "plain"
    assert find_template(tokenizers["bytes"]).name == "chatml"  # it has <|im_start|>
    for name, content in tokenizer_files("bytes", chat_template="{{ bos_token }}!").items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    own = find_template(load_tokenizer(tmp_path))
    assert (own.name, own.render(talk("a"))) == ("of the model", "<s>!")
    assert find_template(load_tokenizer(tmp_path), "llama3").name == "llama3"
    (tmp_path / "mine.jinja").write_text("{{ eos_token }}?")
    assert find_template(BytesTokenizer(), str(tmp_path / "mine.jinja")).render([]) == "</s>?"
    with pytest.raises(
        UserError, match="chat template nowhere: No such file.*\n.*chatml, llama2, llama3, mistral, plain"
    ):
        find_template(BytesTokenizer(), "nowhere")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("{{ messages[0].content.__class__.__mro__ }}", "'__class__' of str"),
        ("{{ ''.__class__ }}", "'__class__' of str"),
        ("{{ '' | attr('__class__') }}", "'__class__' of str"),
        ("{{ '{0.__class__}'.format('') }}", "'__class__' of str"),
        ("{{ raise_exception.__globals__ }}", "'__globals__' of function"),
        ("{{ strftime_now.__self__ }}", "'__self__' of"),
        ("{{ messages.append(1) }}", "'append' of list"),
        ("{{ namespace(__class__=1) }}", "'__class__' of a namespace"),
        ("{{ cycler.__init__ }}", "'__init__' of"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{% for i in range(1000000000) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth"),
        ("{{ 'a' * 10 ** 11 }}", "more memory than it may have"),
        ("{{ '%99999999999d' % 1 }}", "more memory than it may have"),
        ("{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}", "more than 16,777,216 characters"),
        ("line\n{{ x }", "line 2: unexpected '}'"),
        ("{{ nobody.knows }}", "'nobody' is undefined"),
        ("{{ raise_exception('roles!') }}", "odd: roles!"),
    ],
)
def test_what_a_template_must_not_do(source: str, found: str) -> None:
    with pytest.raises(UserError, match="^chat template odd: ") as caught:
        Template("odd", source).render(talk("a"))
    assert found in str(caught.value)


def test_a_template_that_never_ends_is_stopped_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.1)
    loops = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"
    grows = "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}"
    for source in (loops, grows):
        begin = time.perf_counter()
        with pytest.raises(UserError, match=r"chat template odd: it (ran for more than 0\.1 s|needs more memory)"):
            Template("odd", source).render([])
        assert time.perf_counter() - begin < 20
    assert Template("even", "{{ messages | length }}").render(talk("a", "b")) == "2"
    sometimes = Template("odd", "{% if messages %}" + loops + "{% endif %}x")
    first, second, third = sometimes.render_all([([], False), (talk("a"), False), ([], False)])
    assert first == "x"
    assert isinstance(second, UserError)
    assert isinstance(third, UserError)


FORK = """
import os
from jaxrl_llm.data.chat import Template
template = Template("even", "{{ messages[0].content }}")
def good(name):
    return all(template.render([{"role": "user", "content": f"{name} {n}"}]) == f"{name} {n}" for n in range(200))
assert good("before")
child = os.fork()
if child == 0:
    os._exit(0 if good("child") else 1)
assert good("parent")
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_fork_renders_in_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_transformers_gives_to_templates() -> None:
    def text(source: str) -> str:
        return Template("t", source).render(talk("<a> 'é' & b"))

    assert text("{{ messages | tojson }}") == '[{"role": "user", "content": "<a> \'é\' & b"}]'
    assert text("{{ {'b': 1, 'a': [2]} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": [\n  2\n ],\n "b": 1\n}'
    assert text("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "012"
    assert (
        text("{{ strftime_now('%Y') | int > 2000 }}{{ tools is none }}{{ add_generation_prompt }}") == "TrueTrueFalse"
    )
    assert text("{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}{{ dict(a=3)['a'] }}") == "23"
    assert text("  {% if true %}\n  x\n  {% endif %}\n") == "  x\n"  # trim_blocks, lstrip_blocks
    assert text("{% generation %}x{% endgeneration %}{{ bos_token }}") == "x"
    assert Template("t", "{{ messages[0].content }}").render(talk("\U000f0000\x00\u2028")) == "\U000f0000\x00\u2028"


@pytest.mark.parametrize(
    "message",
    [{"role": "user"}, {"content": "a"}, {"role": "user", "content": None}, {"role": "</s>", "content": ""}, "a", 1],
)
def test_what_is_no_message_is_refused(message: Any) -> None:
    template = find_template(BytesTokenizer())
    for use in (lambda: template.render([message]), lambda: tokenize_chat(BytesTokenizer(), template, [message])):
        with pytest.raises(UserError, match="a message must have a role, a word, and a content"):
            use()


def test_a_template_that_is_too_long_is_refused() -> None:
    with pytest.raises(UserError, match="chat template long: 300,000 characters, and 262,144 are allowed"):
        Template("long", "x" * 300_000)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(UserError, match=r"U\+D800"):
        tokenize_chat(BytesTokenizer(), find_template(BytesTokenizer()), talk("a \ud800", "b"))
