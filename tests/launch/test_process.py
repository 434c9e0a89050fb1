"""The process of `gradscope run` is that of `python train.py`, in all that a script can see of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradscope.launch.options import LaunchOptions

pytestmark = pytest.mark.processes

SCRIPTS = Path(__file__).parent / "scripts"
NOTHING = "gradscope: nothing was observed"


def run(*command: str, python_options=(), **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *python_options, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=SCRIPTS,
        env=os.environ | variables,
    )


def compare(*command: str, python_options=(), **variables: str) -> list[str]:
    """Run a script without and with gradscope, and compare; return the lines that gradscope has added to stderr."""
    bare = run(*command, python_options=python_options, **variables)
    observed = run("-m", "gradscope", "run", *command, python_options=python_options, **variables)
    assert observed.returncode == bare.returncode
    assert observed.stdout == bare.stdout
    lines = observed.stderr.splitlines()
    own = [line for line in lines if line.startswith("gradscope:")]
    assert [line for line in lines if line not in own] == bare.stderr.splitlines()
    return own


@pytest.mark.parametrize("how", ["nothing", "exit", "exit-text", "fork", "spawn"])
def test_a_script_that_ends_without_training_is_itself_and_one_line_says_so(how):
    (line,) = compare("process.py", how, "--lr", "1", "--help", "--")
    assert line.startswith(NOTHING)


@pytest.mark.parametrize("how", ["raise", "_exit", "SIGTERM", "SIGINT", "SIGKILL"])
def test_a_script_that_is_ended_is_itself(how):
    assert not compare("process.py", how)


def test_options_of_python_and_its_environment_are_kept():
    options = ["-u", "-X", "dev", "-W", "error::ResourceWarning"]
    compare("process.py", "nothing", python_options=options, PYTHONPATH="/one:/two")
    compare("process.py", "nothing", PYTHONPATH="")


def test_a_module_is_run_as_by_python():
    assert compare("-m", "process", "nothing", "-m", "--name")[0].startswith(NOTHING)


@pytest.mark.parametrize("command", [["missing.py"], ["-m", "missing"], ["-m", "children.missing"]])
def test_what_python_cannot_run_gives_the_message_of_python(command):
    assert not compare(*command)


def test_a_syntax_error_has_the_traceback_of_python(tmp_path):
    script = tmp_path / "wrong.py"
    script.write_text("x = (\n", encoding="utf-8")
    assert not compare(str(script))


def test_the_sitecustomize_of_the_environment_is_loaded(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.warnoptions.append(f'{__name__} of its own')\n", encoding="utf-8"
    )
    compare("process.py", "nothing", PYTHONPATH=str(tmp_path))


def test_with_gradscope_0_in_the_environment_nothing_is_loaded():
    assert not compare("process.py", "nothing", GRADSCOPE="0")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "Missing argument 'SCRIPT'"),
        (["--name", "a/b", "process.py"], "name must be 1 to 80 printable characters"),
        (["--layers", "re:(", "process.py"], "is not a valid regular expression"),
        (["--budget", "2", "process.py"], "--budget"),
        (["--every", "0", "process.py"], "--every"),
        (["--detail", "all", "process.py"], "--detail"),
    ],
)
def test_a_wrong_option_is_refused_before_the_script_runs(options, says):
    done = run("-m", "gradscope", "run", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_python_without_environment_is_refused():
    done = run("-m", "gradscope", "run", "process.py", "nothing", python_options=["-E"])
    assert done.returncode == 2
    assert "-E" in done.stderr


def test_options_reach_the_script_and_leave_its_environment_as_it_was():
    before = {"HOME": "/home/me", "PYTHONPATH": "/one"}
    environment = dict(before)
    options = LaunchOptions(
        name="mine", layers=("fc*",), detail="full", every=3, pid=7, python_path="/one"
    )
    options.write_to(environment)
    assert environment["PYTHONPATH"].endswith(":/one")
    assert LaunchOptions.read(environment["GRADSCOPE_RUN"]) == options
    options.remove_from(environment)
    assert environment == before
