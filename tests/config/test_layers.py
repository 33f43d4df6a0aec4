"""`extends`, merging, and the command line as the last layer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrl_llm.config import layers
from jaxrl_llm.config.layers import file_layers, find_config, merge, parse_overrides
from jaxrl_llm.config.yaml_source import Node, parse_value
from jaxrl_llm.errors import UserError

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """write(name, text): a file in the working directory, beside packaged configs in ./packaged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layers, "packaged_configs", lambda: tmp_path / "packaged")

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def node(text: str) -> Node:
    parsed = parse_value(text, "here")
    assert parsed is not None
    return parsed


def merged(path: Path) -> dict:
    result = None
    for _, layer in file_layers(path):
        result = merge(result, layer)
    assert result is not None
    return result.plain()


def test_a_later_layer_wins_key_by_key(write: Write) -> None:
    write("base.yaml", "a: 1\nsection: {x: 1, y: [1, 2]}\n")
    write("sub/mid.yaml", "extends: ../base.yaml\nsection: {y: [3]}\n")
    top = write("top.yaml", "extends: sub/mid\na: null\nsection: {z: 0}\n")
    assert merged(top) == {"a": None, "section": {"x": 1, "y": [3], "z": 0}}


def test_what_two_parents_share_stays_below_both(write: Write) -> None:
    write("base.yaml", "a: 0\nb: 0\n")
    write("left.yaml", "extends: base.yaml\na: 1\n")
    write("right.yaml", "extends: base.yaml\nb: 1\n")
    assert merged(write("top.yaml", "extends: [left.yaml, right.yaml]\n")) == {"a": 1, "b": 1}


def test_a_circle_is_named(write: Write) -> None:
    a = write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: c.yaml\n")
    write("c.yaml", "extends: b.yaml\n")
    with pytest.raises(UserError, match=r"b\.yaml: `extends` runs in a circle: b\.yaml -> c\.yaml -> b\.yaml"):
        file_layers(a)


def test_extends_wants_names(write: Write) -> None:
    with pytest.raises(
        UserError, match=r"a\.yaml:2: extends: expected a file name or a list of them, found the number 3"
    ):
        file_layers(write("a.yaml", "x: 1\nextends: 3\n"))


def test_a_missing_parent_is_reported_where_it_is_named(write: Write) -> None:
    write("base.yaml", "x: 1\n")
    with pytest.raises(UserError, match=r"a\.yaml:2: extends: bsae\.yaml: there is no such config file\n.*base\.yaml"):
        file_layers(write("a.yaml", "x: 1\nextends: bsae.yaml\n"))


@pytest.mark.parametrize("name", ["pretrain/debug", "pretrain/debug.yaml", "configs/pretrain/debug.yaml"])
def test_packaged_configs_go_by_name(write: Write, name: str) -> None:
    expected = write("packaged/pretrain/debug.yaml", "x: 1\n")
    assert find_config(name) == expected
    assert find_config(name, Path("somewhere/else")) == expected


def test_a_file_goes_before_a_packaged_name(write: Write) -> None:
    write("packaged/a.yaml", "x: 1\n")
    mine = write("a.yaml", "x: 2\n")
    assert find_config("a").resolve() == mine


def test_missing_files_and_folders(write: Write) -> None:
    write("packaged/pretrain/debug.yaml", "x: 1\n")
    write("mine.yaml", "x: 1\n")
    with pytest.raises(
        UserError, match=r"pretrain/debgu: there is no such config file\n  did you mean pretrain/debug\?"
    ):
        find_config("pretrain/debgu")
    with pytest.raises(UserError, match=r"did you mean mine\.yaml\?"):
        find_config("mime.yaml")
    with pytest.raises(UserError, match=r"packaged: is a folder"):
        find_config("packaged")
    with pytest.raises(UserError, match=r"packaged configs: pretrain/debug"):
        find_config("zzz")


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ("{o: {kind: a, x: 1}}", "{o: {kind: b, y: 2}}", "{o: {kind: b, y: 2}}"),
        ("{o: {kind: a, x: 1}}", "{o: {kind: a, y: 2}}", "{o: {kind: a, x: 1, y: 2}}"),
        ("{o: {kind: a, x: 1}}", "{o: {y: 2}}", "{o: {kind: a, x: 1, y: 2}}"),
        ("{m: {preset: 15m, n: 4}}", "{m: {preset: 150m}}", "{m: {preset: 150m}}"),
        ("{m: {n: 4}}", "{m: {preset: 150m}}", "{m: {preset: 150m}}"),
        ("{m: {preset: 15m, n: 4}}", "{m: {preset: null}}", "{m: {preset: null}}"),
        ("{m: {kind: {path: x}, b: 1}}", "{m: {kind: {path: y}}}", "{m: {kind: {path: y}, b: 1}}"),
        ("{a: {b: 1}}", "{a: null}", "{a: null}"),
        ("{a: 1}", "{a: {b: 1}}", "{a: {b: 1}}"),
    ],
)
def test_merge(base: str, over: str, expected: str) -> None:
    assert merge(node(base), node(over)).plain() == node(expected).plain()


def test_merge_keeps_origins() -> None:
    result = merge(Node.of({"s": {"x": 1, "y": 1}}, "first"), Node.of({"s": {"y": 2}}, "second"))
    assert {key: child.origin for key, child in result.value["s"].value.items()} == {"x": "first", "y": "second"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["a.b.c=1e-3"], {"a": {"b": {"c": 1e-3}, "old": 1}}),
        (["a.b=yes"], {"a": {"b": "yes", "old": 1}}),
        (["a.b=null"], {"a": {"b": None, "old": 1}}),
        (['a.b=""'], {"a": {"b": "", "old": 1}}),
        (["a.b=x=y"], {"a": {"b": "x=y", "old": 1}}),
        (["a.b=[1, 2]"], {"a": {"b": [1, 2], "old": 1}}),
        (["a={b: 1}"], {"a": {"b": 1}}),
        (["a={b: 1}", "a.c=2"], {"a": {"b": 1, "c": 2}}),
        (["a.b=1", "a.b=2"], {"a": {"b": 2, "old": 1}}),
        (["a.b=1", "a.b.c=2"], {"a": {"b": {"c": 2}, "old": 1}}),
    ],
)
def test_overrides(overrides: list[str], expected: dict) -> None:
    assert merge(node("{a: {old: 1}}"), parse_overrides(overrides)).plain() == expected


def test_the_order_of_overrides_does_not_drop_keys() -> None:
    for overrides in (["m.n=4", "m.preset=x"], ["m.preset=x", "m.n=4"]):
        assert merge(node("{m: {old: 1}}"), parse_overrides(overrides)).plain() == {"m": {"preset": "x", "n": 4}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.steps", "'training.steps' is no override"),
        ("a.b=", "a.b= has no value\n  mend: write a.b=null, or 'a.b=\"\"'"),
        ("a.b=#c", "a.b= has no value"),
        ("=3", "expected names"),
        ("a..b=3", "expected names"),
        ("a.=3", "expected names"),
        ("a.b=[1", "not valid YAML"),
        ("a.b=*.txt", "quotes: 'a.b=\"...\"'"),
    ],
)
def test_bad_overrides(override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_overrides(["fine=1", override])
    assert str(caught.value).startswith("command line: ")
    assert expected in str(caught.value)
