"""From a file to a validated Config: presets and kinds, provenance, faults in plain words, saving, differences."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrl_llm.config import ABSENT, Config, changed, diff, dump, flatten, load, resolve, save
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.presets import PRESETS
from jaxrl_llm.training.optim import AdamwConfig, MuonConfig

BASE = """\
workdir: runs/x
data: {path: a.txt, length: 64}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """write(text, name="c.yaml"): a config in the working directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "c.yaml") -> str:
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write


def faults(write: Callable[..., str], text: str, *overrides: str) -> list[str]:
    """The lines of the refusal."""
    with pytest.raises(UserError) as caught:
        load(write(text), overrides)
    message = str(caught.value)
    assert "pydantic" not in message
    assert "http" not in message
    lines = [line.strip() for line in message.splitlines()]
    return lines[1:] if re.match(r"\d+ faults", lines[0]) else lines


def test_defaults_hold_where_nothing_is_said(write: Callable[..., str]) -> None:
    config = load(write(BASE))
    assert config == Config(workdir="runs/x", data=dataclasses.replace(config.data, path="a.txt", length=64))


def test_a_preset_with_one_value_replaced(write: Callable[..., str]) -> None:
    model = load(write(BASE + "model: {preset: 15m, n_layers: 4}")).model
    assert model == dataclasses.replace(PRESETS["15m"], preset="15m", n_layers=4)
    assert model.n_layers != PRESETS["15m"].n_layers


def test_another_preset_drops_what_was_said_of_the_first(write: Callable[..., str]) -> None:
    write(BASE + "model: {preset: 15m, n_layers: 4}", "base.yaml")
    child = write("extends: base.yaml\nmodel: {preset: 150m}")
    assert load(child).model == dataclasses.replace(PRESETS["150m"], preset="150m")
    assert load(child, ["model.n_layers=3"]).model == dataclasses.replace(PRESETS["150m"], preset="150m", n_layers=3)
    assert load("base.yaml", ["model.d_ff=512"]).model.n_layers == 4


def test_another_kind_drops_the_old_keys_and_the_default_kind_needs_no_name(write: Callable[..., str]) -> None:
    write(BASE + "optim: {eps: 1e-5}", "base.yaml")
    assert load("base.yaml").optim == AdamwConfig(eps=1e-5)
    assert load("base.yaml", ["optim.b1=.8"]).optim == AdamwConfig(eps=1e-5, b1=0.8)
    assert load("base.yaml", ["optim.kind=adamw"]).optim == AdamwConfig(eps=1e-5)
    assert load("base.yaml", ["optim.kind=muon"]).optim == MuonConfig()
    assert load("base.yaml", ["optim={b1: .8}"]).optim == AdamwConfig(b1=0.8)


def test_named_corpora(write: Callable[..., str]) -> None:
    name = write("workdir: x\ndata:\n  length: 64\n  mix:\n    old: {path: a.txt}\n    new: {path: [b.txt, c.txt]}\n")
    mix = load(name, ["data.mix.old.weight=.25"]).data.mix
    assert (mix["old"].weight, mix["new"].weight) == (0.25, 1.0)
    assert mix["new"].path == ("b.txt", "c.txt")
    assert list(load(name, ["data.mix.old=null"]).data.mix) == ["new"]
    assert list(load(name, ["data.mix={third: {path: d.txt}}"]).data.mix) == ["third"]
    assert list(load(name, ["data.mix.third={path: d.txt}"]).data.mix) == ["old", "new", "third"]
    with pytest.raises(
        UserError, match="data.mix.odl: null removes a name, and this one is not there, did you mean 'old'"
    ):
        load(name, ["data.mix.odl=null"])


def test_provenance(write: Callable[..., str]) -> None:
    write(BASE, "base.yaml")
    name = write("extends: base.yaml\n\nmodel:\n  preset: 15m\n  n_layers: 4\n")
    origins = resolve(name, ["optim.kind=muon", "data.length=32"]).provenance
    assert origins["workdir"] == "base.yaml:1"
    assert origins["data.path"] == "base.yaml:2"
    assert origins["data.length"] == "command line"
    assert origins["model.preset"] == "c.yaml:4"
    assert origins["model.n_layers"] == "c.yaml:5"
    assert origins["model.d_model"] == "preset 15m"
    assert origins["optim.kind"] == "command line"
    assert "optim.b1" not in origins
    assert "schedule.kind" not in origins


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("training:\n  stps: 3", "c.yaml:4: training.stps: unknown key, did you mean training.steps?"),
        ("trainig: {steps: 3}", "c.yaml:3: trainig: unknown key, did you mean training or trainable?"),
        ("micro_batches: 3", "c.yaml:3: micro_batches: unknown key, did you mean training.micro_batches?"),
        ("stps: 3", "c.yaml:3: stps: unknown key, did you mean training.steps?"),
        ("mesh: {xyz: 1}", "c.yaml:3: mesh.xyz: unknown key; known here: data, fsdp, context, tensor, slices"),
        ("training.steps: 3", "c.yaml:3: training.steps: a key may not have a dot in it"),
        ("training: {steps: 10k}", "c.yaml:3: training.steps: expected a whole number, found the text '10k'"),
        (
            "training: {steps: 1_000}",
            "c.yaml:3: training.steps: expected a whole number, found the text '1_000'; write 1000",
        ),
        (
            "training: {steps: 1e3}",
            "c.yaml:3: training.steps: expected a whole number, found the number 1000.0; write 1000",
        ),
        ("training: {steps: true}", "c.yaml:3: training.steps: expected a whole number, found true"),
        ("training: {steps: -1}", "c.yaml:3: training.steps: expected at least 0, found the number -1"),
        ("training: 3", "c.yaml:3: training: expected a mapping (key: value), found the number 3"),
        ("training: null", "c.yaml:3: training: expected a mapping (key: value), found null"),
        ("schedule: {lr: false}", "c.yaml:3: schedule.lr: expected a number, found false"),
        ("schedule: {lr: '1e-3'}", "c.yaml:3: schedule.lr: expected a number, found the text '1e-3'"),
        ("logging: {quiet: yes}", "c.yaml:3: logging.quiet: expected true or false, found the text 'yes'; write true"),
        ("logging: {quiet: 1}", "c.yaml:3: logging.quiet: expected true or false, found the number 1"),
        ("compute: {dtype: fp8}", "c.yaml:3: compute.dtype: expected auto, bfloat16 or float32, found the text 'fp8'"),
        ("tokenizer: {kind: sentencepiece}", "c.yaml:3: tokenizer.path: is missing, and has no default"),
        ("seed: null", "c.yaml:3: seed: expected a whole number, found null"),
        (
            "eval: {corpora: {a: {path: 3}}}",
            "c.yaml:3: eval.corpora.a.path: expected a text or a list, found the number 3",
        ),
        (
            "eval: {corpora: {a: {path: [x, 3]}}}",
            "c.yaml:3: eval.corpora.a.path: expected a text or a list, each item a text, found a list",
        ),
        ("eval: {corpora: {a: {weight: 1}}}", "c.yaml:3: eval.corpora.a.path: is missing, and has no default"),
        (
            "eval: {corpora: {'a.b': {path: x}}}",
            "c.yaml:3: eval.corpora.a.b: a name may not have a dot in it: dots separate keys",
        ),
        ("optim: {kind: moun}", "c.yaml:3: optim.kind: unknown kind 'moun', did you mean 'muon'?; known: adamw, muon"),
        ("optim: {kind: [muon]}", "c.yaml:3: optim.kind: unknown kind ['muon'], did you mean 'muon'?"),
        ("optim: {momentum: .9}", "c.yaml:3: optim.momentum: belongs to kind muon, and this is adamw"),
        (
            "model: {preset: 15mm}",
            "c.yaml:3: model.preset: unknown preset '15mm', did you mean '15m'?; known: debug, 15m, ",
        ),
        ("model: {preset: 15}", "c.yaml:3: model.preset: expected a text, found the number 15"),
        (
            "schedule: {kind: wsd, warmup: .5, decay: .6}",
            "c.yaml:3: schedule: warmup 0.5 and decay 0.6 are shares of one run",
        ),
    ],
)
def test_faults(write: Callable[..., str], text: str, fault: str) -> None:
    (first, *more) = faults(write, BASE + text)
    assert first.startswith(fault)
    assert not more or more[0].startswith("mend:")


def test_faults_of_the_command_line_and_of_defaults(write: Callable[..., str]) -> None:
    assert faults(write, BASE, "training.stps=3") == [
        "command line: training.stps: unknown key, did you mean training.steps?"
    ]
    assert faults(write, "data: {path: a, length: 8}", "seed=3") == ["c.yaml: workdir: is missing, and has no default"]
    assert faults(write, BASE, "algo.kind=reinforce")[0].startswith("command line: algo.kind: unknown kind 'reinforce'")


def test_all_faults_at_once(write: Callable[..., str]) -> None:
    found = faults(write, "wrkdir: x\nmodel: {preset: nope}\ntraining:\n  steps: x\n", "optim.kind=x", "seed=.5")
    assert sorted(line.split(": ")[:2] for line in found) == [
        ["c.yaml", "workdir"],
        ["c.yaml:1", "wrkdir"],
        ["c.yaml:2", "model.preset"],
        ["c.yaml:4", "training.steps"],
        ["command line", "optim.kind"],
        ["command line", "seed"],
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "model: {n_heads: 4, n_kv_heads: 3}",
            "c.yaml:3: model.n_kv_heads: 3 does not divide model.n_heads, which is 4",
        ),
        ("model: {n_heads: 6, n_kv_heads: 2}", "c.yaml:3: model.n_heads: 6 does not divide model.d_model, which is 64"),
        ("model: {n_heads: 64, n_kv_heads: 2}", "c.yaml:3: model.n_heads: gives heads of 1 channels"),
        ("model: {head_dim: 5}", "c.yaml:3: model.head_dim: gives heads of 5 channels"),
        ("model: {context: 32}", "c.yaml:2: data.length: 64 is longer than model.context, which is 32"),
        ("training: {batch_size: 8, micro_batches: 3}", "c.yaml:3: training.micro_batches: 3 does not divide"),
        ("init_optimizer: true", "c.yaml:3: init_optimizer: there is nothing to take the optimizer from"),
        ("checkpoint: {every: 300, keep_every: 1000}", "c.yaml:3: checkpoint.keep_every: 1000 is no multiple of"),
    ],
)
def test_misfits(write: Callable[..., str], text: str, fault: str) -> None:
    (line,) = faults(write, BASE + text)
    assert line.startswith(fault)


def test_misfits_of_data(write: Callable[..., str]) -> None:
    assert faults(write, "workdir: x\ndata: {length: 64}")[0].startswith("c.yaml:2: data: there is no data")
    mix = "workdir: x\ndata:\n  length: 64\n  mix: {a: {path: a}, b: {path: b}}\n"
    assert faults(write, mix, "data.path=c", "data.holdout=.1") == [
        f"command line: data.{key}: describes a single corpus, but data.mix names several; "
        f"say it of each: data.mix.a.{key}"
        for key in ("path", "holdout")
    ]
    assert faults(write, mix + "eval: {corpora: {b: {path: x}}}")[0].startswith(
        "c.yaml:5: eval.corpora.b: data.mix has"
    )


def test_what_an_algorithm_reads(write: Callable[..., str]) -> None:
    assert "algo.kind=sft reads data.kind=chat, and this is text" in faults(write, BASE, "algo.kind=sft")[0]
    pairs = "workdir: x\ndata: {kind: preferences, path: a, length: 64}\n"
    assert "data.max_length: 65 is longer" in faults(write, pairs, "algo.kind=dpo", "data.max_length=65")[0]
    both = faults(write, pairs, "algo.kind=dpo", "data.holdout=.1", "data.holdout_rows=3")
    assert "says the same as holdout" in both[0]
    assert "are conversations or preferences" in faults(write, BASE, "eval.examples.a.path=x")[0]
    assert "is text for a language model" in faults(write, pairs, "algo.kind=reward", "eval.corpora.a.path=x")[0]
    lora = ["trainable.kind=lora", "trainable.adapter=there"]
    assert "init_from=there adds it in first" in faults(write, pairs, "algo.kind=dpo", *lora)[0]
    assert load(write(pairs), ["algo.kind=simpo", *lora]).trainable.kind == "lora"


def test_saved_and_loaded_is_the_same(write: Callable[..., str], tmp_path: Path) -> None:
    name = write(BASE + "model: {preset: llama3.1-8b, n_layers: 2}\noptim: {kind: muon, clip: .inf}\nseed: 3 # three\n")
    odd = [
        'eval.corpora.null={path: [a, "b: c"], separator: "\\n\\n"}',
        "eval.corpora.a b.path='#x'",
        "init_from=é 1e-3",
    ]
    resolved = resolve(name, odd)
    save(resolved, tmp_path / "run" / "config.yaml")
    assert load("run/config.yaml") == resolved.config
    assert [path.name for path in Path("run").iterdir()] == ["config.yaml"]
    lines = dump(resolved).splitlines()
    assert "seed: 3  # c.yaml:5" in lines
    assert "  n_layers: 2  # c.yaml:3" in lines
    assert "  vocab_size: 128256  # preset llama3.1-8b" in lines
    assert "  steps: 1000" in lines
    assert dump(resolve("run/config.yaml")).count("\n") == len(lines)


def test_a_config_that_cannot_be_saved(write: Callable[..., str], tmp_path: Path) -> None:
    resolved = resolve(write(BASE))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        save(resolved, tmp_path / "file" / "config.yaml")


def test_flatten_and_diff(write: Callable[..., str]) -> None:
    a = load(write(BASE))
    b = load(write(BASE), ["optim.kind=muon", "seed=1", "data.path=[a, b]", "schedule.lr=1"])
    assert flatten(a)["optim.kind"] == "adamw"
    assert flatten(b)["data.path"] == ["a", "b"]
    assert flatten(a)["data.mix"] == {}
    assert list(diff(a, b))[-1] == "schedule.lr"
    assert list(diff(a, b).items())[:4] == [
        ("seed", (0, 1)),
        ("data.path", ("a.txt", ["a", "b"])),
        ("optim.kind", ("adamw", "muon")),
        ("optim.momentum", (ABSENT, 0.95)),
    ]
    assert diff(a, a) == {}


def test_changed_is_what_differs_from_the_defaults_of_the_chosen_kinds(write: Callable[..., str]) -> None:
    config = load(
        write(BASE + "optim: {kind: muon, b1: .9}\ntraining: {steps: 1000, batch_size: 4}\nmodel: {preset: debug}")
    )
    assert changed(config) == {
        "workdir": "runs/x",
        "model.preset": "debug",
        "data.path": "a.txt",
        "data.length": 64,
        "training.batch_size": 4,
        "optim.kind": "muon",
    }
    mixed = load(write("workdir: x\ndata: {length: 64, mix: {a: {path: a, weight: 1}}}"))
    assert changed(mixed) == {"workdir": "x", "data.mix.a.path": "a", "data.length": 64}
