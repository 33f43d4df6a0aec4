"""The command line: verbs, exit codes, help that answers at once, messages without tracebacks."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from jaxrl_llm import __version__, cli
from jaxrl_llm.cli import VERBS, main
from jaxrl_llm.errors import Diverged, Preempted, StorageFailed, UserError

ROOT = Path(cli.__file__).parent.parent
CONFIG = "workdir: runs/x\ndata: {path: a.txt, length: 64}\ntraining: {steps: 7}\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG)
    return "c.yaml"


def verb_that(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """A verb `probe` that does this."""

    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("config")
        parser.add_argument("overrides", nargs="*")
        parser.add_argument("--flag", action="store_true")

    module: ModuleType = SimpleNamespace(HELP="probe", configure=configure, run=run)  # type: ignore[assignment]
    monkeypatch.setitem(cli.VERBS, "probe", cli.Verb("probe", lambda: module))


@pytest.mark.parametrize("error", [UserError, Diverged, Preempted, StorageFailed])
def test_errors_become_one_message_and_their_exit_code(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error("the disk [is] full\n  mend: another")

    verb_that(monkeypatch, fail)
    assert main(["probe", "c"]) == error.exit_code  # type: ignore[attr-defined]
    assert capsys.readouterr().err == "error: the disk [is] full\n  mend: another\n"


def test_interrupts_broken_pipes_and_bugs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    verb_that(monkeypatch, interrupt)
    assert main(["probe", "c"]) == 130
    assert capsys.readouterr().err == ""
    verb_that(monkeypatch, lambda args: 1 // 0)
    assert main(["probe", "c"]) == 1
    message = capsys.readouterr().err
    assert "ZeroDivisionError" in message
    assert "please report it" in message


def test_a_reader_that_leaves_is_no_error() -> None:
    for arguments in ("config schema", "--help"):
        command = f"(sleep .05; {sys.executable} -m jaxrl_llm {arguments}) | true; echo ${{PIPESTATUS[0]}}"
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=env)
        assert (done.stdout, done.stderr) == ("141\n", "")


def test_overrides_may_follow_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    verb_that(monkeypatch, lambda args: seen.append(args) or 0)
    assert main(["probe", "c", "a=1", "--flag", "b=-2"]) == 0
    assert (seen[0].config, seen[0].overrides, seen[0].flag) == ("c", ["a=1", "b=-2"], True)
    assert main(["probe", "c", "--flag", "b"]) == 2
    assert main(["probe", "c", "--flga"]) == 2
    assert "unrecognized arguments: --flga" in capsys.readouterr().err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "unknown verb 'trian'; did you mean train?" in capsys.readouterr().err
    assert main(["config"]) == 2
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_fits_one_screen_and_imports_nothing_heavy(verb: str | None) -> None:
    """Half a second is the promise; the imports are what it hangs on, and they do not depend on this machine's load."""
    arguments = [verb, "--help"] if verb else ["--help"]
    code = (
        "import sys; from jaxrl_llm.cli import main; code = main(sys.argv[1:])\n"
        "heavy = {'jax', 'numpy', 'pydantic', 'yaml', 'rich', 'matplotlib', 'grain'} & sys.modules.keys()\n"
        "sys.exit(f'imports {heavy}' if heavy else code)"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 40
    assert all(name in done.stdout for name in ([verb] if verb else VERBS))
    assert time.monotonic() - begin < 5


def test_config_show(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", config, "--all", "seed=3"]) == 0
    every = capsys.readouterr().out.splitlines()
    assert main(["config", "show", config, "seed=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["workdir", "runs/x", "c.yaml:1"],
        ["seed", "3", "command", "line"],
        ["data.path", "a.txt", "c.yaml:2"],
        ["data.length", "64", "c.yaml:2"],
        ["training.steps", "7", "c.yaml:3"],
    ]
    assert "optim.kind adamw default" in [" ".join(line.split()) for line in every]
    assert len(every) > 50


def test_config_faults_exit_2(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", config, "training.stps=3"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: command line: training.stps: unknown key, did you mean training.steps?"
    )
    assert main(["config", "show", "nowhere.yaml"]) == 2


def test_config_diff_and_schema(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("d.yaml").write_text("extends: c.yaml\noptim: {kind: muon}\n")
    assert main(["config", "diff", config, "d.yaml"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [["c.yaml", "d.yaml"], ["optim.kind", "adamw", "muon"]]
    assert ["optim.momentum", "(absent)", "0.95"] in lines
    assert main(["config", "diff", config, config]) == 0
    assert capsys.readouterr().out == ""
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Config"


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert table["jaxrl_llm"].startswith(__version__)
    assert table["devices"].startswith("8 x cpu")
    assert {"python", "jax", "optax", "host", "configs"} <= table.keys()
