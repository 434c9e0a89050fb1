"""A compiled optimizer's step, and compiled clipping: trained alike, and nothing of ours compiled."""

import functools
import json
import os
import sys

import pytest

from gradscope.observe import native_module
from support import fork_server

pytestmark = pytest.mark.processes

TRAIN = """
import json, sys
import torch
from torch import nn
import torch._dynamo.utils

how, clips = sys.argv[1], sys.argv[2] == "clips"
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
if how != "bare":
    import gradscope
    scope = gradscope.attach(model, hub=None, quiet=True, every=int(how))

@torch.compile(backend="eager")
def step():
    if clips:
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()

losses = []
for _ in range(60):
    optimizer.zero_grad()
    loss = model(torch.randn(32, 8)).square().mean()
    loss.backward()
    step()
    losses.append([loss.item(), *(p.double().sum().item() for p in model.parameters())])
seen = [reference() for reference in torch._dynamo.convert_frame.input_codes.seen]
compiled = [code for code in seen if code is not None]
print(json.dumps({
    "losses": losses,
    "graphs": torch._dynamo.utils.counters["stats"].get("unique_graphs", 0),
    "ours": [code.co_qualname for code in compiled if "gradscope" in code.co_filename],
    "step": None if how == "bare" else scope.step,
    "faults": {} if how == "bare" else scope.faults,
    "observed": None if how == "bare" else scope.latest()["0"]["update"].norm,
}))
"""


@functools.cache
def run(how, clips, *, is_native=True):
    done = fork_server.run(
        [sys.executable, "-c", TRAIN, how, clips],
        env=os.environ | {"GRADSCOPE_NATIVE": "1" if is_native else "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("is_native", "every", "clips"),
    [
        pytest.param(True, "1", "clips", marks=pytest.mark.exhaustive),
        (True, "7", "clips"),
        (True, "1000", "does not clip"),
        (False, "7", "clips"),
    ],
)
def test_a_compiled_step_trains_bitwise_the_same_and_is_counted(is_native, every, clips):
    if is_native and native_module() is None:
        pytest.skip("the native pass was not built")
    bare, watched = run("bare", clips), run(every, clips, is_native=is_native)
    assert watched["losses"] == bare["losses"]
    assert watched["ours"] == []
    assert (watched["step"], watched["faults"]) == (60, {})
    assert watched["observed"] > 0
    assert watched["graphs"] <= bare["graphs"] + 1
