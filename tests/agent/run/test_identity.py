"""The name of a run without a given name."""

import re
import subprocess
import sys
from collections import Counter

from torch import nn

from gradscope.agent.run import identity
from gradscope.agent.run.identity import run_name
from support import fork_server

PROGRAM = "import torch, gradscope; gradscope.attach(torch.nn.Linear(2, 2), hub=None)"


def said_by(command, run, **options):
    return run(command, capture_output=True, text=True, check=True, **options).stderr


def test_a_run_is_named_by_script_and_model_and_without_a_script_file_python(tmp_path):
    script = tmp_path / "my_training.py"
    script.write_text(PROGRAM)
    for arguments, given, stem, run in [
        (["-c", PROGRAM], None, "python", fork_server.run),
        (["-"], PROGRAM, "python", subprocess.run),
        ([str(script)], None, "my_training", fork_server.run),
    ]:
        said = said_by([sys.executable, *arguments], run, input=given)
        assert re.search(rf"gradscope watch {stem}-Linear-[0-9a-f]{{4}}$", said.strip())


def test_the_line_on_stderr_names_the_pass_that_measures():
    environment = {"GRADSCOPE_NATIVE": "0", "PATH": "/usr/bin:/bin"}
    said = said_by([sys.executable, "-c", PROGRAM], fork_server.run, env=environment)
    assert "(eager: GRADSCOPE_NATIVE=0)" in said


class Generator(nn.Module):
    pass


def test_two_models_of_one_script_get_names_that_tell_them_apart(monkeypatch):
    monkeypatch.setattr(identity, "_numbers", Counter())
    names = [run_name(None, model) for model in (Generator(), nn.Linear(1, 1), nn.Linear(1, 1))]
    stem, _, one_id = names[0].rpartition("-Generator-")
    assert names == [f"{stem}-Generator-{one_id}"] + [f"{stem}-Linear-{one_id}{n}" for n in ("", "-2")]
