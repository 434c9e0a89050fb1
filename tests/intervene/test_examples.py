"""The examples that change gradients run as scripts, and show the effect that they promise."""

import re
import sys
from pathlib import Path

import pytest

from support import fork_server

FOLDER = Path(__file__).parents[2] / "examples" / "interventions"


def numbers(name: str) -> list[list[float]]:
    """The numbers that a script prints, line by line."""
    ran = fork_server.run(
        [sys.executable, FOLDER / name], capture_output=True, text=True, timeout=110, check=True
    )
    lines = [re.findall(r"-?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf|nan)", x) for x in ran.stdout.splitlines()]
    return [[float(number) for number in line] for line in lines]


def test_the_clipping_hook_and_the_clip_are_the_same():
    (plain,), (by_hook,), (by_gradscope,), (difference,) = numbers("clipping_hook.py")
    assert plain > 100
    assert by_hook == by_gradscope == 1.0
    assert difference < 1e-6


def test_clipping_makes_the_exploding_network_learn():
    plain, clipped = numbers("exploding_rnn.py")
    assert plain[0] <= 2
    assert not plain[1] < 1e6
    assert clipped[1:3] == [399, pytest.approx(0.1, abs=0.1)]


@pytest.mark.exhaustive
def test_the_reversal_raises_the_accuracy_on_the_other_domain():
    pytest.importorskip("sklearn", reason="the digits: pip install scikit-learn")
    plain, adapted = numbers("domain_adversarial.py")[1:]
    assert adapted[1] > plain[1] + 0.2
    assert min(plain[0], adapted[0]) > 0.95


@pytest.mark.exhaustive
def test_noise_while_training_raises_the_accuracy_on_noisy_pictures():
    pytest.importorskip("sklearn", reason="the digits: pip install scikit-learn")
    _, plain, noisy = numbers("noise_robustness.py")
    assert noisy[-1] > plain[-1] + 0.05
