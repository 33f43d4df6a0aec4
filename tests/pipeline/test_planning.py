"""Pipelines are checked whole before anything runs: order, configs, paths, and what starts from what is not there."""

import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.config import Config, save
from jaxrl_llm.config.layers import packaged_configs
from jaxrl_llm.config.resolve import Resolved, resolve
from jaxrl_llm.errors import UserError
from jaxrl_llm.pipeline import plan
from jaxrl_llm.pipeline.planning import Pipeline
from tests.pipeline.stubs import MODEL, PIPELINE, log

PREFERENCES = "algo: {kind: reward}\ndata: {kind: preferences, path: other.txt, length: 64}"
PPO = """\
algo: {kind: ppo}
data: {kind: prompts, path: other.txt}
rollout: {prompts: 8, max_new_tokens: 8, rewards: {parts: {likes: {kind: model, path: SET}}}}
"""


def names(pipeline: Pipeline) -> list[str]:
    return [stage.name for stage in pipeline.stages]


def refused(text: str, overrides: Sequence[str] = ()) -> str:
    Path("p.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        plan("p.yaml", overrides)
    return str(caught.value)


def test_it_does_not_matter_where_a_stage_stands(here: Path) -> None:
    text = PIPELINE.replace("{corpus}", "{zoo}").replace("  corpus:", "  zoo:")
    first, middle = text.index("  zoo:"), text.index("  pretrain:")
    moved = text[:first] + text[middle : text.index("next:")] + text[first:middle] + text[text.index("next:") :]
    Path("p.yaml").write_text(moved)
    assert names(plan("p.yaml")) == ["zoo", "pretrain", "again"]


def test_stages_that_read_nothing_of_each_other_stay_as_they_stand(here: Path) -> None:
    stage = "{verb: data corpus, args: ['{NAME}/x']}"
    lines = [f"  {name}: {stage.replace('NAME', name)}" for name in ("b", "c", "a")]
    Path("p.yaml").write_text("\n".join(["workdir: w", "stages:", *lines]))
    assert names(plan("p.yaml")) == ["b", "c", "a"]


def test_a_path_in_a_stages_directory_is_read_of_it_too(here: Path) -> None:
    Path("train.yaml").write_text(
        f"workdir: x\nmodel: {MODEL}\ndata: {{path: runs/p/corpus/stories.jsonl, length: 64}}"
    )
    Path("p.yaml").write_text(
        "workdir: runs/p\nstages:\n  a: {verb: train, config: train.yaml}\n"
        "  corpus: {verb: data corpus, args: ['{corpus}/stories.jsonl']}\n"
    )
    pipeline = plan("p.yaml")
    assert names(pipeline) == ["corpus", "a"]
    assert pipeline.stages[1].inputs["reads"] == {"corpus": pipeline.stages[0].digest}


def test_a_circle_is_named(here: Path) -> None:
    text = PIPELINE.replace('["{corpus}/stories.jsonl"]', '["{again}/stories.jsonl"]')
    message = refused(text)
    assert "p.yaml:3: stages read each other: corpus reads again reads pretrain reads corpus\n" in message
    assert "\n  p.yaml:10: stages.again\n  p.yaml:6: stages.pretrain\n" in message


def test_a_stage_that_reads_itself(here: Path) -> None:
    message = refused(PIPELINE.replace('"{pretrain}"}', '"{again}"}'))
    assert "p.yaml:13: stage again: init_from=runs/p/again: again reads again: it lies in the stage's own" in message


def test_what_starts_from_a_stage_is_the_same_before_and_after(here: Path) -> None:
    Path("t.model").write_text("x")
    chain = "workdir: runs/p\nstages:\n  third: {verb: train, config: plain.yaml, set: {init_from: '{second}'}}\n"
    chain += "  second: {verb: train, config: plain.yaml, set: {init_from: '{first}/checkpoints/5'}}\n"
    chain += "  first: {verb: train, config: base.yaml}\n"
    Path("p.yaml").write_text(chain)
    Path("plain.yaml").write_text("workdir: x\ndata: {path: other.txt, length: 64}\n")
    Path("base.yaml").write_text(
        f"workdir: x\nmodel: {MODEL}\ntokenizer: {{kind: sentencepiece, path: t.model}}\n"
        "data: {path: other.txt, length: 64}\n"
    )
    before = plan("p.yaml")
    third: Config = before.stages[2].config
    assert (names(before), third.model.d_model) == (["first", "second", "third"], 16)
    assert third.tokenizer.kind == "sentencepiece"
    for stage in before.stages:  # as `train` leaves it
        resolved = resolve(stage.arguments[1], stage.arguments[2:])
        assert resolved.config == stage.config
        save(resolved, stage.directory / "config.yaml")
        (stage.directory / "checkpoints" / "5").mkdir(parents=True)
    after = plan("p.yaml")
    assert [stage.digest for stage in after.stages] == [stage.digest for stage in before.stages]
    Path("t.model").unlink()
    assert "stage first: tokenizer.path=t.model: is not there" in refused(chain)
    assert "second" not in refused(chain), "its tokenizer comes with the model"


def test_critics_and_reward_models_that_are_not_there_yet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("base.yaml").write_text(f"workdir: x\nmodel: {MODEL}\ndata: {{path: other.txt, length: 64}}\n")
    Path("rm.yaml").write_text(f"workdir: x\nmodel: {MODEL.replace('d_model: 16', 'd_model: 32')}\n{PREFERENCES}\n")
    Path("ppo.yaml").write_text(f"workdir: x\n{PPO}")
    text = (
        "workdir: runs/p\nstages:\n  base: {verb: train, config: base.yaml}\n  rm: {verb: train, config: rm.yaml}\n"
        "  ppo:\n    verb: train\n    config: ppo.yaml\n    set:\n      init_from: '{base}'\n"
        "      critic.init_from: '{rm}'\n      rollout.rewards.parts.likes.path: '{rm}'\n"
    )
    Path("p.yaml").write_text(text)
    assert plan("p.yaml").stages[2].config.critic.model.d_model == 32
    assert main(["run", "p.yaml", "--dry-run"]) == 0  # memory too, of all three
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["base", "rm", "ppo", "memory", "base", "rm", "ppo"]

    Path("t.model").write_text("x")
    Path("rm.yaml").write_text(Path("rm.yaml").read_text() + "tokenizer: {kind: sentencepiece, path: t.model}\n")
    message = refused(text)
    assert (
        "p.yaml:11: stage ppo: rollout.rewards.parts.likes: runs/p/rm has another tokenizer than the policy" in message
    )
    assert "rollout.rewards.parts.likes.retokenise=true" in message
    assert "p.yaml:10: stage ppo: critic.init_from=runs/p/rm has another tokenizer than the policy" in message
    retokenised = text + "      rollout.rewards.parts.likes.retokenise: true\n"
    assert "likes" not in refused(retokenised)
    wrong = text.replace("likes.path: '{rm}'", "likes.path: '{base}'").replace("critic.init_from: '{rm}'", "seed: 1")
    assert "runs/p/base is a run of algo.kind=pretrain, and a reward model is wanted" in refused(wrong)


def test_a_model_that_nobody_knows_before_it_is_there(here: Path) -> None:
    text = (
        'workdir: w\nstages:\n  hf: {verb: export, args: [m, "{hf}"]}\n  a:\n    verb: train\n    config: train.yaml\n'
    )
    text += '    set: {data.path: other.txt, init_from: "{hf}"}\n'
    Path("m").mkdir()
    assert "p.yaml:7: stage a: init_from=w/hf: stage hf leaves no run there whose model is known" in refused(text)


def test_all_faults_at_once(here: Path) -> None:
    text = PIPELINE.replace('{corpus}/stories.jsonl", t', 'nowhere/*.txt", t').replace("other.txt", "gone.txt")
    message = refused(
        text.replace("training.steps: 5", "training.stps: 5").replace('args: ["{corpus}/s', 'args: ["-x", "{corpus}/s')
    )
    assert message.startswith("3 faults in the pipeline:\n")
    assert "p.yaml:3: stage corpus: data: unrecognized arguments: -x" in message
    assert "p.yaml:6: stage pretrain: command line: training.stps: unknown key" in message
    assert "p.yaml:13: stage again: data.path=gone.txt: is not there" in message
    message = refused(text)
    assert (
        "p.yaml:9: stage pretrain: data.path=nowhere/*.txt: is not there\n  mend: its path, or {STAGE}/FILE" in message
    )


@pytest.mark.parametrize(
    ("verb", "args", "fault"),
    [
        ("evaluate", "[gone, --suite, task]", "model=gone: is not there"),
        ("evaluate", "['{corpus}', --suite, perplexity, --data, other.txt, gone.txt]", "data=gone.txt: is not there"),
        ("evaluate", "['{corpus}', --suite, tsk]", "argument --suite: invalid choice: 'tsk'"),
        ("evaluate", "['{corpus}', --suite, rewardbench, --reference, none, --before, gone]", "before=gone: is not"),
        ("tokenizer train", "['tfds:x', gone, --out, '{x}/t', --vocab-size, '300']", "paths=gone: is not there"),
        ("data task", "[gsm8k, '{x}/o', --rows, sft, path=gone.jsonl]", "path=gone.jsonl: is not there"),
        ("generate", "['{corpus}', --prompts, gone.txt]", "prompts=gone.txt: is not there"),
        ("train", "[]", "train: the following arguments are required: CONFIG"),
    ],
)
def test_arguments_are_checked_too(here: Path, verb: str, args: str, fault: str) -> None:
    corpus = "workdir: w\nstages:\n  corpus: {verb: data corpus, args: ['{corpus}/x']}\n"
    message = refused(f"{corpus}  x:\n    verb: {verb}\n    args: {args}\n")
    assert message.startswith("p.yaml:6: stage x: " if "is not" in fault else "p.yaml:4: stage x: ")
    assert fault in message
    assert "\n" not in message.split("\n  mend:")[0], "that is all"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("verb: train", "verb: trian", "p.yaml:7: stages.pretrain.verb: unknown verb 'trian', did you mean 'train'?"),
        ("config: train.yaml", "config: trian.yaml", "p.yaml:6: stage pretrain: trian.yaml: there is no such config"),
        (
            '"{corpus}/stories.jsonl", t',
            '"{corups}/x", t',
            "p.yaml:9: stages.pretrain.set.data.path: {corups} is no stage, did you mean 'corpus'?",
        ),
        ("{again}", "{agian}", "p.yaml:14: next: {agian} is no stage, did you mean 'again'?"),
        (
            "training.steps: 5",
            "workdir: x",
            "p.yaml:9: stages.pretrain.set: a stage's workdir is always WORKDIR/pretrain",
        ),
        ("  corpus:", "  cor pus:", "p.yaml:3: stages.cor pus: a stage's name is a directory"),
        ("  again:", "  logs:", "p.yaml:10: stages.logs: WORKDIR/logs is the pipeline's own"),
        ("workdir: runs/p", "wrkdir: x", "p.yaml:1: wrkdir: unknown key, did you mean workdir?"),
        ("args:", "agrs:", "p.yaml:5: stages.corpus.agrs: unknown key, did you mean stages.corpus.args?"),
        ("verb: data corpus", "verb: data corpus\n    set: {a: 1}", "p.yaml:5: stages.corpus.set: there is no config"),
        (
            "verb: train",
            "verb: train\n    expect: {loss: {}}",
            "stages.pretrain.expect.loss: expects nothing: set rise",
        ),
    ],
)
def test_faults_are_found_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, fault: str
) -> None:
    assert old in PIPELINE
    Path("p.yaml").write_text(PIPELINE.replace(old, new, 1))
    assert main(["run", "p.yaml"]) == 2
    assert fault in capsys.readouterr().err
    assert log() == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("pretrian.seed=1", "stages.pretrian: there is no such stage to override, did you mean 'pretrain'?"),
        ("corpus.seed=1", "there is no config to override in this stage"),
        ("seed=1", "'seed=1' is no override of a pipeline"),
        ("pretrain.workdir=x", "a stage's workdir is always WORKDIR/pretrain"),
        ("pretrain.sede=1", "unknown key, did you mean seed or schedule?"),
        ("again.data.path=gone", "command line: stage again: data.path=gone: is not there"),
        ("workdir=", "workdir= has no value"),
    ],
)
def test_bad_overrides(here: Path, override: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        plan("p.yaml", [override])
    assert fault in str(caught.value)


def test_expectations_and_descriptions_decide_nothing(here: Path) -> None:
    before = plan("p.yaml").stages[1].digest
    more = "verb: train\n    description: to begin with\n    expect: {loss: {most: 1}}"
    Path("p.yaml").write_text(PIPELINE.replace("verb: train", more, 1))
    assert plan("p.yaml").stages[1].digest == before


def test_rejection_sampling_has_a_config_of_its_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve_reject(path: Path, overrides: Sequence[str]) -> Resolved:
        assert overrides == ["workdir=runs/p/best", "models.policy.path=runs/p/again"]
        return Resolved(resolve("train.yaml", ["data.path=other.txt"]).config, str(path), {})

    fake = types.ModuleType("jaxrl_llm.reject.config")
    fake.resolve_reject = resolve_reject  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jaxrl_llm.reject.config", fake)
    Path("r.yaml").write_text("models: {policy: {path: x}}")
    text = "  best:\n    verb: reject\n    config: r.yaml\n    set: {models.policy.path: '{again}'}\n"
    Path("p.yaml").write_text(PIPELINE.replace("next:", f"{text}next:"))
    stage = plan("p.yaml").stages[3]
    assert (stage.name, stage.kind, stage.resumes, stage.reads) == ("best", "reject", True, {"again"})


@pytest.mark.parametrize("path", sorted((packaged_configs() / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_pipelines_are_sound(path: Path) -> None:
    assert plan(path).stages


def test_a_pipeline_lies_on_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("more").mkdir()
    Path("more/q.yaml").write_text(
        "extends: ../p.yaml\nreport: more\nstages:\n  pretrain: {set: {training.steps: 6}}\n"
        "  last: {verb: train, config: own.yaml, set: {init_from: '{again}'}}\nnext: ['it {last}']\n"
    )
    Path("more/own.yaml").write_text("workdir: x\ndata: {path: other.txt, length: 64}\n")
    pipeline = plan("more/q.yaml")
    assert names(pipeline) == ["corpus", "pretrain", "again", "last"]
    assert (pipeline.stages[1].config.training.steps, pipeline.next) == (6, ["it runs/p/last"])
    assert pipeline.stages[1].arguments[1] == "train.yaml"  # each config is looked for beside the file that names it
    assert pipeline.stages[3].arguments[1] == "more/own.yaml"
    assert main(["run", "more/q.yaml"]) == 0
    assert Path("runs/p/report_more.json").is_file()
    assert "report: runs/p/report_more.md" in capsys.readouterr().out
    assert not Path("runs/p/report.md").exists()
    assert "more/q.yaml:2: report: is a part of a file's name" in refused_file(
        "more/q.yaml", "report: more", "report: a/b"
    )


def refused_file(path: str, old: str, new: str) -> str:
    Path(path).write_text(Path(path).read_text().replace(old, new))
    with pytest.raises(UserError) as caught:
        plan(path)
    return str(caught.value)


def test_directories_are_compared_as_they_are(here: Path) -> None:
    """However a path is written."""
    Path("p.yaml").write_text(PIPELINE.replace('"{pretrain}"', f'"{os.path.abspath("runs")}/../runs/p/pretrain"'))
    assert plan("p.yaml").stages[2].reads == {"pretrain"}
