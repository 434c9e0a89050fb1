"""Under torch.compile every model trains bit for bit the same, and shows what eager mode shows."""

import json
import sys
from pathlib import Path

import pytest

from support import fork_server

pytestmark = pytest.mark.processes

PROGRAM = Path(__file__).parent / "compiled_training.py"
FEW = ("in-place", "tuple", "root", "view", "checkpoint")
MORE = ("nested", "dict", "dataclass", "conv", "shared", "dropout", "attention", "frozen")
NOT_MEASURED = {("view", "flat", "grad")}
"""A tensor that is modified in place through a view of it: its hook is dropped, compiled or not."""

OWN_RANDOM_NUMBERS = {("dropout", "inductor")}
"""What draws other random numbers when it is compiled: its numbers are not those of eager mode."""


def run(backend: str, how: str, names: tuple[str, ...]) -> dict[str, dict[str, object]]:
    command = [sys.executable, "-W", "ignore", str(PROGRAM), backend, how, *names]
    done = fork_server.run(
        command,
        capture_output=True,
        text=True,
        preload=["torch._functorch.aot_autograd"],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {result["name"]: result for result in map(json.loads, done.stdout.splitlines())}


# aot_eager compiles as inductor does, up to the code of the kernels; eager stops before autograd.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("backend", "names"),
    [
        ("aot_eager", FEW),
        pytest.param("aot_eager", MORE, marks=pytest.mark.exhaustive),
        pytest.param("eager", FEW + MORE, marks=pytest.mark.exhaustive),
        pytest.param("inductor", FEW + MORE, marks=pytest.mark.exhaustive),
    ],
)
def test_compiled_models_train_bitwise_the_same_and_show_what_eager_mode_shows(backend, names):
    eager = run("none", "attached", names)
    bare, attached = run(backend, "bare", names), run(backend, "attached", names)
    for name in names:
        got, expected = attached[name], bare[name]
        assert got["digest"] == expected["digest"], name
        assert (got["breaks"], got["faults"]) == ({}, {}), name
        # One graph of an observed step and one of any other; the root's own output is seen in a third.
        assert got["graphs"] == 2 * expected["graphs"] + (name == "root"), name
        assert_same_rows(name, eager[name]["observed"], got["observed"], (name, backend))


def assert_same_rows(name, eager, compiled, case):
    """Each row equals that of eager mode, or is not measured."""
    assert eager.keys() == compiled.keys() == {"0", "2", "4"}, name
    for step, layers in eager.items():
        assert compiled[step].keys() == layers.keys(), (name, step)
        for layer, kinds in layers.items():
            assert compiled[step][layer].keys() == kinds.keys(), (name, step, layer)
            for kind, expected in kinds.items():
                got, where = compiled[step][layer][kind], (name, step, layer, kind)
                if (name, layer, kind) in NOT_MEASURED and got["calls"] is None:
                    continue
                assert (got["calls"], got["count"]) == (expected["calls"], expected["count"]), where
                if case in OWN_RANDOM_NUMBERS:
                    continue
                for number in ("norm", "min", "max"):
                    assert got[number] == pytest.approx(expected[number], rel=1e-4, abs=1e-6), where
