"""The examples run as scripts and print the numbers that they promise."""

import runpy
import sys
from pathlib import Path

import pytest

from support import fork_server

pytestmark = pytest.mark.slow

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
    "activations": [
        "gradcheck of the sigmoid, eps 1e-4: {'float32': 'failed', 'float64': 'passed'}",
        "gradcheck of Mish in double: True",
        "jacobian of the sigmoid at 0.5: 0.235",
        "slope [0.0, 0.1667, 0.6667, 1.1667, 1.0]",
        "Swish      value",
        "HardSwish  value",
    ],
    "linear": ["largest difference to torch's linear: ", "largest clamped gradient: 1.0 1.0"],
    "reductions": [
        "log-sum-exp of 1000 and 1000.5: 1000.97",
        "shapes of the gradients: (3, 1, 4) (5, 1)",
    ],
    "convolution": ["shapes: (2, 4, 5) (2, 3, 9) (4, 3, 3)"],
    "memory": [
        "checkpointed sequential, largest difference: 0.0",
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
    "basics": [
        "y = 63.0  dy/dx = 93.0  by hand: 93",
        "the doctor at 2: element [0]: backward 93, central difference 93",
        "out = 140.0  gradient = [[10.0, 16.0, 22.0], [22.0, 16.0, 10.0]]",
        "after requires_grad_: False False True",
        "x³ at 2: 8.0  slope: 12.0",
        "gradcheck passed",
        "a wrong cube: wrong-gradient-scale - the gradient of x is 0.333333 times",
    ],
    "seminar": [
        "cosines: (11, 17) close to the reference: True",
        "[0.0655, 0.1964, 0.4178]",
        "matrix products on cpu: 8: ",
        "two devices in one sum: RuntimeError",
        "gradient after one backward: [2.0, 3.0, 1.0] after two: [4.0, 6.0, 2.0]",
        "gradcheck in float32, eps 1e-4: failed",
        "gradcheck in float64, eps 1e-4: passed",
        "Jacobian of x, by backward: [[0.25, 0.0], [0.0, 0.196612]]",
        "Hessian of the sum, by backward: [[0.0, 0.0], [0.0, -0.090858]]",
        "epoch 9: ",
    ],
    "deep_dive": [
        "x² + 2x + 1 at [2, 3]: [6.0, 8.0]",
        "de/da = 3.0  de/db = 1.0  nodes: MulBackward0 AddBackward0 ReluBackward0",
        "Mish: gradcheck True, the doctor: reimplements-builtin",
        "calls after the hooks were removed: 0",
        "norm under scope.clip: 1.0",
        "KeepsOnCtx: saved-on-ctx at deep_dive.py:",
        "WritesToInput: forward-inplace-input",
        "ForgetsAnInput: missing-gradient",
        "checkpointed, largest difference: 0.0",
    ],
    "approximate": [
        "differences of step 0.0001: the approximate gradient of x is off by",
        "1.1e-03 of its norm: noticeable",
        "3.8e-02 of its norm: poor",
        "100 samples: the approximate gradient of x is off by",
    ],
    "foreign": ["sinc: [1.0, 0.6366, 0.0] slope: [0.0, -1.2732, -1.0]", "the same from torch: True"],
    "timings": ["Swish", "times as long"],
}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_its_numbers(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.syspath_prepend(FOLDER)  # as where Python runs the script
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for words in PRINTED[name]:
        assert words in printed


def test_every_example_is_run():
    others = {"regression", "curves", "memory_of_a_sigmoid"}  # with tests of their own, or a library
    assert {path.stem for path in FOLDER.glob("*.py")} - others == set(PRINTED)


@pytest.mark.processes
def test_the_regression_finds_the_parameters():
    fit = runpy.run_path(str(FOLDER / "regression.py"))["fit"]
    losses, parameters = fit(epochs=100, lr=3e-4)
    for found, true in zip(parameters[-1], (2.0, -3.0, 1.0), strict=True):
        assert abs(found - true) < 0.15
    assert losses[-1] < 0.4 < losses[0]
    assert len(losses) == len(parameters) == 100


def run_activations(*arguments, hidden=()):
    """Run the example as a script; `hidden` libraries are as if they were not installed."""
    script = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden!r})); "
        f"sys.path.insert(0, {str(FOLDER)!r}); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = str(FOLDER / "activations.py")
    script = script.replace("sys.argv[0]", repr(path))
    return fork_server.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_curves_are_drawn_in_the_terminal():
    pytest.importorskip("plotext")
    ran = run_activations()
    assert (ran.returncode, ran.stderr) == (0, "")
    for words in ("activations", "their derivatives", "Relu", "Swish", "Mish", "GELU", "Tanh"):
        assert words in ran.stdout.split("gradcheck of HardSwish in double")[1]
    assert "\x1b" not in ran.stdout


def test_curves_are_saved_as_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    ran = run_activations("--save", str(tmp_path / "curves.png"))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_libraries_the_numbers_come_and_the_rest_is_said_in_words(tmp_path):
    ran = run_activations(hidden=("plotext", "matplotlib"))
    assert ran.returncode == 0
    assert "gradcheck of HardSwish in double: True" in ran.stdout
    assert "no curves: this needs plotext, which is not installed here: pip install" in ran.stderr
    ran = run_activations("--save", str(tmp_path / "c.png"), hidden=("plotext", "matplotlib"))
    assert ran.returncode == 2
    assert "--save: this needs matplotlib, which is not installed here" in ran.stderr


def test_the_curves_of_the_regression_are_its_losses_and_parameters():
    panels = runpy.run_path(str(FOLDER / "regression.py"))["panels"]
    loss, parameters = panels([100.0, 1.0], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]).values()
    assert loss == {"loss": (range(1, 3), [2.0, 0.0])}
    assert [list(ys) for _, ys in parameters.values()] == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
