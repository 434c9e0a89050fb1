"""The examples run as scripts and print the numbers that they promise."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "autograd"

PRINTED = {
    "first_steps": [
        "one step: (63.0, 93.0)",
        "several steps: (140.0, [[10.0, 16.0, 22.0], [22.0, 16.0, 10.0]])",
        "graph: (3.0, 1.0, ['MulBackward0', 'AddBackward0', 'ReluBackward0'])",
        "accumulation: ([2.0, 3.0, 1.0], [4.0, 6.0, 2.0])",
        "tracking off: (False, False, True)",
        "cube: 8.0 12.0",
        "gradcheck of the cube: True",
        "x² + 2x + 1: [6.0, 8.0]",
    ],
    "activations": ["gradcheck in double: True", "Swish      value", "HardSwish  value"],
    "linear": ["largest difference to torch's linear: ", "largest clamped gradient: 1.0 1.0"],
    "reductions": [
        "log-sum-exp of 1000 and 1000.5: 1000.97",
        "shapes of the gradients: (3, 1, 4) (5, 1)",
    ],
    "convolution": ["shapes: (2, 4, 5) (2, 3, 9) (4, 3, 3)"],
    "memory": [
        "a sigmoid keeps, in MiB: 32.0",
        "under no_grad: 0.0",
        "a relu with a mask keeps, in KiB: 64.0",
    ],
    "second_order": [
        "first and second derivative: 6.0 2.0",
        "Hessian of v₀² v₁ + v₁³ at (1, 2): [[4.0, 2.0], [2.0, 12.0]]",
        "times (1, -1): [2.0, -10.0] = [2.0, -10.0]",
    ],
    "gradient_behaviour": ["reversal at 5: -1.0", "ClipWhenAsked  value 5, gradient of 3y: 1"],
    "hooks": ["[4.0, 4.0, 4.0]", "rows after the hooks were removed: 0", "clipped norms: [1.0"],
    "tensors": [
        "cosines: (11, 17) close: True",
        "channel means: [0.0655, 0.1964, 0.4178]",
        "mixed devices:",
    ],
    "timings": ["Swish", "times as long"],
}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_its_numbers(name, capsys):
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for words in PRINTED[name]:
        assert words in printed


def test_every_example_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*PRINTED, "regression"}


@pytest.mark.slow
def test_the_regression_finds_the_parameters():
    fit = runpy.run_path(str(FOLDER / "regression.py"))["fit"]
    parameters, first, last = fit()
    for found, true in zip(parameters, (2.0, -3.0, 1.0), strict=True):
        assert abs(found - true) < 0.15
    assert last < 0.4 < first
