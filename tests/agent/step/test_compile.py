"""Under torch.compile: the model compiles whole, trains the same, and is seen as in eager mode."""

import json
import sys
import warnings

import pytest
from torch import nn

import gradscope
from support import fork_server

pytestmark = pytest.mark.processes

TRAIN = """
import json, sys
import torch
from torch import nn
import torch._dynamo.utils

backend, is_attached, dtype = sys.argv[1], sys.argv[2] == "attached", getattr(torch, sys.argv[3])
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(
    nn.Linear(8, 16), nn.ReLU(inplace=True), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4)
).to(dtype)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if is_attached:
    import gradscope
    scope = gradscope.attach(model, every=2, hub=None, quiet=True)
net = model if backend == "none" else torch.compile(model, fullgraph=True, backend=backend)
losses, observed = [], {}
for step in range(7):
    optimizer.zero_grad()
    loss = net(torch.randn(32, 8).to(dtype)).float().square().mean()
    loss.backward()
    optimizer.step()
    losses.append([loss.item(), *(p.grad.double().sum().item() for p in model.parameters())])
    if is_attached and step % 2 == 0:
        observed[step] = scope.latest().to_dict()
stats = dict(torch._dynamo.utils.counters["stats"])
print(json.dumps({
    "losses": losses, "observed": observed, "graphs": stats.get("unique_graphs", 0),
    "breaks": dict(torch._dynamo.utils.counters["graph_break"]),
    "faults": scope.faults if is_attached else {},
}))
"""


def run(backend, how, dtype="float32"):
    """Train in a process of its own: compiled code of one would serve the other."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", TRAIN, backend, how, dtype]
    done = fork_server.run(
        command,
        capture_output=True,
        text=True,
        preload=["torch._dynamo", "torch._functorch.aot_autograd"],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def eager():
    return run("none", "attached")


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("eager", marks=pytest.mark.exhaustive),
        "aot_eager",
        pytest.param("inductor", marks=pytest.mark.exhaustive),
    ],
)
def test_a_compiled_model_of_two_graphs_trains_bitwise_the_same_and_fills_every_row(backend, eager):
    bare, attached = run(backend, "bare"), run(backend, "attached")
    assert attached["losses"] == bare["losses"]
    assert (attached["graphs"], attached["breaks"], attached["faults"]) == (2, {}, {})
    assert attached["observed"].keys() == eager["observed"].keys() == {"0", "2", "4", "6"}
    for step, layers in eager["observed"].items():
        assert attached["observed"][step].keys() == layers.keys()
        for layer, kinds in layers.items():
            for kind, expected in kinds.items():
                got = attached["observed"][step][layer][kind]
                assert (got["calls"], got["count"]) == (expected["calls"], expected["count"])
                assert got["norm"] == pytest.approx(expected["norm"], rel=1e-4), (step, layer, kind)
                assert got["max"] == pytest.approx(expected["max"], rel=1e-4, abs=1e-6)


def test_a_low_precision_model_compiled_without_fusion_is_bitwise_the_same_too():
    bare, attached = run("aot_eager", "bare", "bfloat16"), run("aot_eager", "attached", "bfloat16")
    assert attached["losses"] == bare["losses"]


LATE = """
import sys, logging
import torch
from torch import nn
import gradscope

model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
net = torch.compile(model, backend="eager")
net(torch.ones(1, 4)).sum().backward()
scope = gradscope.attach(net, every=1, hub=None, quiet=True)
if sys.argv[1] == "reset":
    torch._dynamo.reset()
net(torch.ones(1, 4)).sum().backward()
scope.mark_step()
print(sorted(scope.latest()["0"]))
"""


@pytest.mark.parametrize(("what", "is_seen"), [("as it is", False), ("reset", True)])
def test_attaching_to_a_compiled_model_works_or_explains_what_to_do(what, is_seen):
    done = fork_server.run(
        [sys.executable, "-c", LATE, what],
        capture_output=True,
        text=True,
        check=True,
        preload=["torch._dynamo"],
    )
    assert ("'out'" in done.stdout) == is_seen
    assert "'param_grad'" in done.stdout
    assert ("call torch._dynamo.reset() after attach" in done.stderr) != is_seen


def test_the_warning_filters_are_as_before_after_detach():
    before = list(warnings.filters)
    model = nn.Linear(2, 2)
    scope = gradscope.attach(model, hub=None, quiet=True)
    assert len(warnings.filters) == len(before) + 1
    scope.detach()
    assert list(warnings.filters) == before
