"""`gradscope run` with trainings, as a user calls it: whole processes, with a hub and recordings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.ranks import started_ranks

pytestmark = pytest.mark.processes

SCRIPTS = Path(__file__).parent / "scripts"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
GRADSCOPE = ["-m", "gradscope", "run", "--every", "1"]


def python(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def runs() -> dict[str, dict]:
    listed = json.loads(python("-m", "gradscope", "ls", "--json").stdout)["runs"]
    found = {run["run"].rpartition("-")[0]: run for run in listed}
    assert len(found) == len(listed), listed
    return found


def compare(script: str, *arguments: str, options=()) -> list[str]:
    """Run a script without and with gradscope, and compare; return the lines that gradscope has added to stderr."""
    path = SCRIPTS / f"{script}.py"
    bare = python(path, *arguments)
    observed = python(*GRADSCOPE, *options, path, *arguments)
    assert observed.returncode == bare.returncode
    assert sorted(observed.stdout.splitlines()) == sorted(bare.stdout.splitlines())
    lines = observed.stderr.splitlines()
    own = [line for line in lines if line.startswith("gradscope:")]
    assert without_torch([line for line in lines if line not in own]) == without_torch(
        bare.stderr.splitlines()
    )
    return own


def without_torch(lines: list[str]) -> list[str]:
    """Return the lines of a traceback without torch's own frames: it calls a module with hooks by another way."""
    kept, is_torch = [], False
    for line in lines:
        is_torch = (
            "/torch/nn/" in line if line.startswith('  File "') else is_torch and line[:4] == "    "
        )
        kept += [] if is_torch else [line]
    return kept


@pytest.mark.usefixtures("places", "ended_hubs")
def test_a_crash_has_the_traceback_and_exit_code_of_python_and_the_run_says_why_it_ended():
    (line,) = compare("crash", options=["--name", "mine-1", "--layers", "0", "--detail", "full"])
    assert line.startswith("gradscope: watching 1 layer of run 'mine-1' ")
    assert runs()["mine"]["reason"] == "ValueError: the input is too large"


@pytest.mark.exhaustive
@pytest.mark.usefixtures("places", "ended_hubs")
def test_quiet_prints_nothing():
    assert not compare("siamese", options=["--quiet", "--no-record"])


@pytest.mark.exhaustive
@pytest.mark.usefixtures("places", "ended_hubs")
def test_processes_of_the_script_are_observed_if_that_is_wanted():
    (line,) = compare("spawned", options=["--children"])
    assert "'spawned-model-" in line


@pytest.mark.exhaustive
@pytest.mark.usefixtures("places", "ended_hubs")
def test_the_line_at_the_end_names_the_option_for_processes():
    (line,) = compare("spawned")
    assert "--children" in line


@pytest.mark.exhaustive
@pytest.mark.usefixtures("places", "ended_hubs")
def test_ranks_of_torchrun_are_ranks_of_one_run():
    script = SCRIPTS / "two_ranks.py"
    with started_ranks(script) as bare:
        bare.finish(timeout_s=120)
    observed = python(*TORCHRUN, *GRADSCOPE, script)
    assert observed.returncode == 0, observed.stderr
    assert sorted(observed.stdout.splitlines()) == sorted("".join(bare.outputs).splitlines())
    (line,) = (each for each in observed.stderr.splitlines() if each.startswith("gradscope:"))
    assert line.startswith("gradscope: watching 3 layers of run 'two_ranks-model-")
    assert {rank["rank"] for rank in runs()["two_ranks-model"]["ranks"]} == {0, 1}


@pytest.mark.exhaustive
@pytest.mark.usefixtures("places", "ended_hubs")
@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("mnist", ["mnist-Net"]),
        ("char_gpt eager", ["char_gpt-GPT"]),
        ("char_gpt wrapped", ["char_gpt-GPT"]),
        ("char_gpt in_place", ["char_gpt-GPT"]),
        ("char_gpt step", ["char_gpt-GPT"]),
        ("dcgan", ["dcgan-Discriminator", "dcgan-Generator"]),
        ("vae", ["vae-Decoder", "vae-Encoder"]),
        ("actor_critic", ["actor_critic-actor", "actor_critic-critic"]),
        ("siamese", ["siamese-SiameseNetwork"]),
        ("lbfgs", ["lbfgs-Sequence"]),
        ("sam", ["sam-model"]),
        ("distillation", ["distillation-Net", "distillation-student"]),
        ("adversarial", []),
        ("language_model", []),
    ],
)
def test_a_script_keeps_its_bits_in_a_process_of_its_own(script, names):
    lines = compare(*script.split())
    assert sorted(runs()) == sorted(names)
    assert len(lines) == max(1, len(names))
