"""The sick runs of the documentation are sick, and gradscope's alerts name their faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import fork_server

FOLDER = Path(__file__).parents[2] / "examples" / "sick_runs"

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]


def _run(name: str, *arguments: str) -> str:
    run = fork_server.run(
        [sys.executable, str(FOLDER / name), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_first_layers_of_the_sigmoid_network_have_vanishing_gradients():
    assert "step 4: gradients vanish from `hidden2` down" in _run(
        "vanishing_gradients.py", "--steps", "100"
    )


def test_the_nan_is_found_in_its_step_and_at_its_layer():
    alert = _run("nan_gradient.py", "--every", "1", "--steps", "301").splitlines()[-1]
    assert alert.startswith("step 300: embed: 32 NaN first in the backward pass")


def test_skipped_steps_keep_the_nan_out_of_the_parameters():
    assert "loss nan" not in _run("nan_gradient.py", "--skip", "--steps", "302")


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_the_learning_rate_decides_whether_the_loss_falls():
    def last_loss(*arguments: str) -> float:
        lines = _run("learning_rate.py", "--steps", "400", *arguments).splitlines()
        return float([line for line in lines if "  loss " in line][-1].split()[-1])

    assert "the learning rate is about" in _run("learning_rate.py", "--steps", "100")

    assert last_loss("--cured") < 0.4
    assert last_loss() > 0.6
