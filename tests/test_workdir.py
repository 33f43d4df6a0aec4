"""A run directory has one writer."""

import os
from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.errors import UserError
from jaxrl_llm.workdir import hold
from tests.launcher import rows
from tests.tiny import Runs


def test_two_commands_do_not_train_in_one_directory(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workdir = runs.config("sft", tmp_path / "run.yaml"), tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.yaml").write_text("")  # as that of a run that never began
    with hold(workdir):
        assert main(["train", str(config)]) == 2
    assert f"process {os.getpid()} on" in (told := capsys.readouterr().err)
    assert "works there already" in told
    assert rows(workdir) == []
    with hold(workdir), pytest.raises(UserError, match="works there already"):
        hold(workdir)
    hold(workdir).close()  # the one before has let go
