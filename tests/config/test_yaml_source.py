"""YAML as strict data: no surprises in values, file:line in every refusal, and what is written is read back."""

from pathlib import Path

import pytest

from jaxrl_llm.config.yaml_source import parse_value, read_yaml, to_yaml
from jaxrl_llm.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("-.inf", float("-inf")),
        ("12", 12),
        ("-0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        *[(text, text) for text in ("yes", "no", "on", "off", "y", "N")],
        *[
            (text, text)
            for text in ("010", "0o10", "0x1f", "1_000", "12:30:00", "2024-01-01", ".nan", "1.2.3", "=", "<<")
        ],
        ("'12'", "12"),
        ('"true"', "true"),
        ("[1, 1e-3, yes, {a: on}]", [1, 1e-3, "yes", {"a": "on"}]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("9" * 40, "9" * 40),
    ],
)
def test_values(text: str, value: object) -> None:
    read = parse_value(text, "here").plain()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: 2\n\na: 3\n", "f.yaml:4: the key 'a' stands twice in one mapping; the first is at f.yaml:1"),
        ("a: {b: 1,\n b: 2}", "f.yaml:2: the key 'b' stands twice in one mapping; the first is at f.yaml:1"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: not valid YAML: tags"),
        ("a: &x 1\nb: *x", "f.yaml:1:4: not valid YAML: anchors"),
        ("a: *x", "f.yaml:1:4: not valid YAML: anchors"),
        ("a: 1\nb: [1, 2\nc: 3\n", "f.yaml:3:2: not valid YAML"),
        ("a: 1\n\tb: 2\n", "f.yaml:2:1: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: not valid YAML"),
        ("a: 1\nb: \x07\n", "f.yaml:2"),
        ('a: 1\nb: "\\ud800"\n', "f.yaml:2:4: not valid YAML: a text that is not Unicode"),
        ("", "f.yaml: is empty"),
        ("# only this\n", "f.yaml: is empty"),
        ("- a\n- b\n", "f.yaml:1: expected `key: value` lines, found a list"),
        ("hello", "f.yaml:1: expected `key: value` lines, found the text 'hello'"),
        ("? [a, b]\n: 1\n", "f.yaml:1: a key must be a plain name"),
        ("a: " + "[" * 3000, "f.yaml:1"),
    ],
)
def test_refusals(content: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "f.yaml")
    assert str(caught.value).startswith(expected)


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(UserError, match=r"f\.yaml:2: is not UTF-8 text \(byte 8\)"):
        read_yaml(tmp_path / "f.yaml")


def test_every_value_knows_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text("a: 1\nb:\n  c: 2\n  d:\n    - 3\n", encoding="utf-8-sig")
    node = read_yaml(Path("f.yaml"))
    assert node.value["a"].origin == "f.yaml:1"
    assert node.value["b"].origin == "f.yaml:2"
    assert node.value["b"].value["c"].origin == "f.yaml:3"
    assert node.value["b"].value["d"].origin == "f.yaml:4"


@pytest.mark.parametrize(
    "value",
    [
        *[
            "true",
            "null",
            "1e-3",
            "010",
            "12",
            "yes",
            "",
            " ",
            "a: b",
            "#x",
            "- a",
            "{a}",
            "*.txt",
            "&a",
            "!a",
            "@a",
            "%a",
            "'",
            '"',
        ],
        *["line\nline\n\n", "\n", "tab\there", "\u2028", "é中🙂", "x" * 500, "a b " * 100, "back\\slash\n", "..."],
        *[
            0,
            -3,
            1e-5,
            1e22,
            0.1,
            float("inf"),
            True,
            None,
            [],
            ["a, b", [1, "2"]],
            {},
            {"null": "a", "a: b": {"c": "\n"}},
        ],
    ],
)
def test_what_is_written_is_read_back(value: object) -> None:
    line = to_yaml(value)
    assert "\n" not in line
    assert parse_value(line, "").plain() == value
    assert parse_value(f"{{key: {line}}}", "").plain() == {"key": value}
