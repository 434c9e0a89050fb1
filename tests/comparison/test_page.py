"""The script of docs/diff.md, run twice, and its comparison."""

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradscope.cli.app import app
from gradscope.recording import list_recordings
from support.waiting import wait_for

PAGE = Path(__file__).parents[2] / "docs/diff.md"


@pytest.mark.processes
def test_two_runs_of_the_script_part_where_the_learning_rate_does(hub, monkeypatch):
    (script,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, lr in (("monday", "0.1"), ("tuesday", "0.05")):
        monkeypatch.setattr(sys, "argv", ["train.py", name, lr])
        exec(compile(script, "train.py", "exec"), {})
    wait_for(
        lambda: sum(info.ended_s is not None and info.steps == 20 for info in list_recordings()) == 2,
        "both recordings",
    )
    result = CliRunner().invoke(app, ["diff", "monday", "tuesday"])
    assert result.exit_code == 1
    assert "differ from step 10 on: update by the optimizer, `0.weight`" in result.stdout
    assert "learning rate differs from step 10: 0.1 in A, 0.05 in B" in result.stdout
