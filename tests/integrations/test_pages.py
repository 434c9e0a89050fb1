"""The whole scripts of the pages about trainers run as they stand, with a viewer's end of the link."""

import re
import sys
from importlib import util
from pathlib import Path

import pytest

from gradscope.recording import list_recordings, open_recording
from support import fork_server

PAGES = Path(__file__).parents[2] / "docs" / "trainers"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "steps"), [("lightning", 64), ("transformers", 64), ("accelerate", 32)]
)
def test_the_script_of_a_page_runs_and_its_run_is_recorded(hub, tmp_path, name, steps):
    if util.find_spec(name) is None or (
        util.find_spec("accelerate") is None and name == "transformers"
    ):
        pytest.skip(f"{name} is not installed")
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    ended = fork_server.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "gradscope: watching" in ended.stderr
    assert "healthy so far" in ended.stdout.splitlines()[-1]
    (found,) = list_recordings()
    with open_recording(found.path) as recording:
        logged = {
            step
            for message in recording.scalars()
            for step, loss in zip(message.steps, message.values.get("loss", ()), strict=False)
            if loss is not None
        }
    assert logged == set(range(steps))
