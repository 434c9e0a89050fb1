"""What a viewer reads is what the training process measured."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.client import connect
from gradscope.errors import LinkError
from gradscope.protocol import Command


def test_a_client_reads_the_same_tables_live_and_late(hub, wait_until):
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters())
    with gradscope.attach(model, name="measured", every=1000, quiet=True) as scope:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(5, 8)).square().sum().backward()
            optimizer.step()
        memory, times = scope.memory(), scope.times()
        with connect(run="measured") as client:
            wait_until(lambda: client.memory(timeout_s=15.0).step == 2, "the newest reading")
            wait_until(lambda: client.times().step == 2, "the newest times")
            seen = client.memory()
            assert seen.to_dict() == memory.to_dict()
            assert (seen.step, seen.balance, seen.machine) == (2, memory.balance, memory.machine)
            late = client.times()
            assert late.phases_s == times.phases_s
            for layer, row in times.items():
                assert late[layer].forward_s == pytest.approx(row.forward_s, rel=1e-6)
                assert late[layer].backward_s == pytest.approx(row.backward_s, rel=1e-6)
                assert late[layer].calls == row.calls


def test_a_viewer_can_have_the_next_step_measured(hub, wait_until):
    model = nn.Linear(4, 4)
    with gradscope.attach(model, name="asked", quiet=True) as scope:

        def train():
            model(torch.randn(2, 4)).sum().backward()
            scope.mark_step()

        for _ in range(5):
            train()
        with connect(run="asked", want="control") as client:
            future = client.send(Command(action="measure"))
            wait_until(lambda: train() or future.done(), "the answer")
            step = future.result().step
            wait_until(lambda: train() or scope.step > step + 1, "the step")
            assert scope.memory().step >= step
            wait_until(lambda: client.memory().step >= step, "the reading")


def test_a_run_whose_memory_was_not_measured_is_said_to_have_none(hub):
    with (
        gradscope.attach(nn.Linear(2, 2), name="idle", quiet=True),
        connect(run="idle") as client,
        pytest.raises(LinkError, match="no memory data of run 'idle' arrived"),
    ):
        client.memory(timeout_s=0.3)
