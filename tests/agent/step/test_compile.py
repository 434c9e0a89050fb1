"""Under torch.compile: a low precision, attaching late, and the filters of warnings.

`tests/conformance/test_compiled.py` compares models of all kinds with eager mode.
"""

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

is_attached = sys.argv[1] == "attached"
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(
    nn.Linear(8, 16), nn.ReLU(inplace=True), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4)
).to(torch.bfloat16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if is_attached:
    import gradscope
    scope = gradscope.attach(model, every=2, hub=None, quiet=True)
net = torch.compile(model, fullgraph=True, backend="aot_eager")
losses = []
for step in range(7):
    optimizer.zero_grad()
    loss = net(torch.randn(32, 8).to(torch.bfloat16)).float().square().mean()
    loss.backward()
    optimizer.step()
    losses.append([loss.item(), *(p.grad.double().sum().item() for p in model.parameters())])
print(json.dumps({
    "losses": losses,
    "graphs": torch._dynamo.utils.counters["stats"].get("unique_graphs", 0),
    "breaks": dict(torch._dynamo.utils.counters["graph_break"]),
    "faults": scope.faults if is_attached else {},
}))
"""


def run(how):
    """Train in a process of its own: compiled code of one would serve the other."""
    done = fork_server.run(
        [sys.executable, "-W", "error::UserWarning", "-c", TRAIN, how],
        capture_output=True,
        text=True,
        preload=["torch._functorch.aot_autograd"],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_low_precision_model_compiled_without_fusion_is_bitwise_the_same_too():
    bare, attached = run("bare"), run("attached")
    assert attached["losses"] == bare["losses"]
    assert (attached["graphs"], attached["breaks"], attached["faults"]) == (2, {}, {})


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
