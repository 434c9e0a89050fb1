"""Under torch.compile every model trains bit for bit the same, and shows what eager mode shows."""

import functools
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


@functools.cache
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
CASES = [
    pytest.param(backend, names, name, marks=marks, id=f"{name}-{backend}")
    for backend, names, marks in (
        ("aot_eager", FEW, ()),
        ("aot_eager", MORE, pytest.mark.exhaustive),
        ("eager", FEW + MORE, pytest.mark.exhaustive),
        ("inductor", FEW + MORE, pytest.mark.exhaustive),
    )
    for name in names
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("backend", "names", "name"), CASES)
def test_a_compiled_model_trains_bitwise_the_same(backend, names, name):
    bare, attached = run(backend, "bare", names)[name], run(backend, "attached", names)[name]
    assert attached["digest"] == bare["digest"]
    assert (attached["breaks"], attached["faults"]) == ({}, {})
    # One graph of an observed step and one of any other; the root's own output is seen in a third.
    assert attached["graphs"] == 2 * bare["graphs"] + (name == "root")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("backend", "names", "name"), CASES)
def test_every_row_of_a_compiled_model_equals_eager_mode_or_is_not_measured(backend, names, name):
    eager, compiled = run("none", "attached", names)[name], run(backend, "attached", names)[name]
    assert eager["observed"].keys() == compiled["observed"].keys() == {"0", "2", "4"}
    for step, layers in eager["observed"].items():
        assert compiled["observed"][step].keys() == layers.keys()
        for layer, kinds in layers.items():
            assert compiled["observed"][step][layer].keys() == kinds.keys()
            for kind, expected in kinds.items():
                got = compiled["observed"][step][layer][kind]
                if (name, layer, kind) in NOT_MEASURED and got["calls"] is None:
                    continue
                assert got["calls"] == expected["calls"], (step, layer, kind)
                assert got["count"] == expected["count"], (step, layer, kind)
                if (name, backend) in OWN_RANDOM_NUMBERS:
                    continue
                for number in ("norm", "min", "max"):
                    assert got[number] == pytest.approx(expected[number], rel=1e-4, abs=1e-6)
