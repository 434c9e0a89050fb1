"""The name of a run without a given name."""

import re
import subprocess
import sys

PROGRAM = "import torch, gradscope; gradscope.attach(torch.nn.Linear(2, 2), hub=None)"


def said_by(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    return done.stderr


def test_a_run_without_a_script_file_is_named_python(tmp_path):
    script = tmp_path / "my_training.py"
    script.write_text(PROGRAM)
    for command, given, stem in [
        ([sys.executable, "-c", PROGRAM], None, "python"),
        ([sys.executable, "-"], PROGRAM, "python"),
        ([sys.executable, str(script)], None, "my_training"),
    ]:
        assert re.search(
            rf"gradscope watch {stem}-[0-9a-f]{{4}}$", said_by(command, input=given).strip()
        )


def test_the_line_on_stderr_names_the_pass_that_measures():
    environment = {"GRADSCOPE_NATIVE": "0", "PATH": "/usr/bin:/bin"}
    assert "(eager: GRADSCOPE_NATIVE=0)" in said_by([sys.executable, "-c", PROGRAM], env=environment)
