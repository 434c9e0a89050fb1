"""Memory that runs out: its report, and the exception, which is not changed."""

import gc
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.run.context import RunContext
from gradscope.columns import MemoryRow, MemoryTable
from gradscope.errors import UsageError
from gradscope.recording import list_recordings, open_recording
from gradscope.resources import SystemMemory
from gradscope.resources.oom_report import checkpoint_savings, largest_holders
from support import fork_server

MIB = 2**20
ROOT = Path(__file__).parents[2]


class Wide(nn.Module):
    """A block that keeps far more than it is given."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.up = nn.Linear(width, 16 * width)
        self.act = nn.GELU()
        self.down = nn.Linear(16 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(x)))


def resident_bytes() -> int:
    machine = SystemMemory(torch.device("cpu"))
    machine.open()
    try:
        resident = machine.resident_bytes()
    finally:
        machine.close()
    if resident is None:
        pytest.skip("this system does not tell what of a process lies in memory")
    return resident


@pytest.fixture
def told(monkeypatch):
    """What the scopes of a test tell, as (level, code, text)."""
    events = []
    monkeypatch.setattr(RunContext, "event", lambda _, *event: events.append(event))
    return events


def train(model, limit_bytes, steps=1):
    batch = torch.randn(2048, 64)
    with gradscope.attach(model, hub=None, quiet=True, memory_limit_bytes=limit_bytes) as scope:
        for _ in range(steps):
            model(batch).square().mean().backward()
            scope.mark_step()


LIMITED = """
import sys, torch, gradscope
sys.path.append("tests")
from gradscope.agent.run.context import RunContext
from tests.resources.test_oom_report import MIB, Wide, resident_bytes, train
from torch import nn
told = []
from gradscope.agent.run.context import RunContext
RunContext.event = lambda _, *event: told.append(event)
try:
    train(nn.Sequential(*(Wide() for _ in range(8))), resident_bytes() + 60 * MIB)
except torch.OutOfMemoryError as error:
    print(error)
for level, code, text in told:
    print(level, code, text)
"""


def test_a_limit_raises_in_the_layer_that_exceeds_it_and_says_who_held_what():
    # In a process of its own: what others have freed and the allocator kept would be used up first.
    program = [sys.executable, "-c", LIMITED]
    said = fork_server.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    raised, first, *lines = said.splitlines()
    assert "gradscope" in raised
    assert "above the limit" in raised
    assert first.startswith("error out-of-memory out of memory in the forward of ")
    layer = first.split("forward of ")[1].split(":")[0]
    assert layer.split(".")[0] in "1234567"  # not at once, and not after the end
    held = [line for line in lines if line.startswith(" ")]
    assert len(held) == 10
    assert held[0].split(" of ")[0].split() == ["8.00", "MiB", "activations"]
    assert any(line.startswith("what would help: checkpointing") for line in lines)


def test_a_limit_is_kept_in_the_backward_pass_too(told):
    class Heavy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            gradient.held = torch.ones(256 * MIB // 4)  # as a backward that needs much room
            return gradient

    class Layer(nn.Module):
        def forward(self, x):
            return Heavy.apply(x)

    model = nn.Sequential(nn.Linear(64, 64), Layer(), nn.Linear(64, 64))
    gc.collect()  # what others have left is not to be freed meanwhile
    with pytest.raises(torch.OutOfMemoryError):
        train(model, resident_bytes() + 40 * MIB)
    assert told[0][2].startswith("out of memory in the backward of 1: ")


def test_an_allocator_that_gives_up_is_reported_with_its_layer(told):
    class Greedy(nn.Module):
        def forward(self, x):
            return x + torch.empty(2**50)[:1]

    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), Greedy())
    with pytest.raises(RuntimeError, match="allocate"):
        train(model, None)
    text = told[-1][2]
    assert told[-1][1] == "out-of-memory"
    assert text.startswith("out of memory in the forward of 2: ")
    assert "activations of 1" in text  # measured at the peak: the first step was not over


def test_memory_that_runs_out_in_the_optimizer_is_reported_as_such(told):
    model = nn.Linear(4, 4)

    class Huge(torch.optim.SGD):
        def step(self, closure=None):
            torch.empty(2**50)

    optimizer = Huge(model.parameters(), lr=0.1)

    def train_once():
        with gradscope.attach(model, hub=None, quiet=True):
            model(torch.randn(2, 4)).sum().backward()
            optimizer.step()

    with pytest.raises(RuntimeError, match="allocate"):
        train_once()
    assert told[-1][2].startswith("out of memory while the optimizer stepped: ")


def test_without_a_limit_or_with_a_large_one_nothing_is_raised(told):
    model = nn.Sequential(Wide(), Wide())
    train(model, None)
    train(model, resident_bytes() + 2**40)
    assert told == []


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1 GiB"])
def test_an_invalid_memory_limit_is_rejected(limit):
    with pytest.raises(UsageError, match="memory_limit_bytes must be an integer number of bytes"):
        gradscope.attach(nn.Linear(1, 1), hub=None, memory_limit_bytes=limit)


def table(saved: dict[str, int], **others) -> MemoryTable:
    names = list(saved)
    rows = {i: MemoryRow(saved_bytes=saved[name], **others) for i, name in enumerate(names)}
    return MemoryTable(3, names, rows, balance={}, machine={})


def test_layers_of_one_class_side_by_side_are_helped_together():
    kept = table({"": 0, "blocks.0": 100, "blocks.0.act": 900, "blocks.1": 100, "blocks.1.act": 500})
    types = {"blocks.0": "Block", "blocks.1": "Block", "": "Net"}
    (found,) = checkpoint_savings(kept, types, {"blocks.0": 50, "blocks.1": 50, "": 1})
    assert found.layers == ("blocks.0", "blocks.1")
    assert found.back_bytes == 1000
    assert found.saves_bytes == (1000 - 50) + (600 - 50) - 1000
    assert str(found) == (
        "checkpointing each of the 2 Block blocks.0 … blocks.1 would save 500 B "
        "(0.98 KiB are used again while one of them runs backward)"
    )


def test_a_block_that_keeps_no_more_than_it_is_given_is_not_proposed():
    assert list(checkpoint_savings(table({"": 0, "a": 10}), {"a": "Block"}, {"a": 10})) == []


def test_the_ten_largest_holders_are_of_all_kinds():
    found = largest_holders(table({f"l{i}": i for i in range(1, 9)}, param_bytes=5))
    assert len(found) == 10
    assert found[0] == (8, "activations", "l8")
    assert (5, "parameters", "l1") in found


SCRIPT = """
import sys, torch, gradscope
from torch import nn
model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 1024), nn.GELU(), nn.Linear(1024, 64))
                        for _ in range(8)))
statm = open("/proc/self/statm").read().split()
limit = int(statm[1]) * 4096 + 60 * 2**20
gradscope.attach(model, name="starved", quiet=True, memory_limit_bytes=limit)
model(torch.randn(2048, 64)).sum().backward()
"""


def printed() -> str:
    command = [sys.executable, "-m", "gradscope", "watch", "starved", "--once", "--tab", "memory"]
    return fork_server.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the script reads /proc")
def test_what_ran_out_is_in_the_recording_and_shown_after_the_process_has_died(
    hub, hub_pid, is_alive, wait_until, tmp_path
):
    script = tmp_path / "starved.py"
    script.write_text(textwrap.dedent(SCRIPT))
    ended = fork_server.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("torch.OutOfMemoryError: gradscope: ") == 1
    assert "out of memory in the forward of" in ended.stderr

    def recorded():
        events = []
        for info in list_recordings():
            with open_recording(info.path) as recording:
                events += [event for event in recording.events() if event.code == "out-of-memory"]
        return events

    wait_until(recorded, "the event in the recording")
    (event,) = recorded()
    assert "activations of" in event.text
    from_the_hub = printed()
    assert from_the_hub.startswith("out of memory in the forward of")
    assert "saved for backward" in from_the_hub
    pid = hub_pid()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), "the end of the hub")
    assert printed() == from_the_hub  # now it is read from the recording
