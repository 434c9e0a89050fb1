"""Runs of tiny models, recorded in this process by the real recorder."""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import gradscope
from gradscope.comparison import compare_runs, open_side
from gradscope.protocol import Hello, encode
from gradscope.recording import Recorder


@dataclass
class Batches:
    """The batches of a run, by step: inputs and targets."""

    inputs: list[torch.Tensor]
    targets: list[torch.Tensor]


def batches(steps, size=4, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return Batches(
        [torch.randn(16, size, generator=generator) for _ in range(steps)],
        [torch.randn(16, 1, generator=generator) for _ in range(steps)],
    )


class Net(nn.Module):
    """Layers of many kinds, in another order of registration than of execution."""

    def __init__(self, drop=0.0):
        super().__init__()
        self.head = nn.Linear(8, 1)
        self.fc1 = nn.Linear(4, 8)
        self.bn1 = nn.BatchNorm1d(8)
        self.act = nn.Tanh()
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(8, 8)

    def forward(self, x):
        return self.head(self.fc2(self.drop(self.act(self.bn1(self.fc1(x))))))


@contextmanager
def recorded(scope, path):
    """Write what a scope without a hub publishes into a recording, as the hub would."""
    hello = Hello(
        role="agent", peer="p", run=scope.run, rank=scope.rank, pid=41, host="box", script="train.py",
        started_s=1000.0, world_size=1,
    )  # fmt: skip
    with Recorder(path, hello) as recorder:

        def add(make, *_rest):
            message = make()
            recorder.add(message, encode(message))

        publisher = scope._run.publisher
        publisher.put = publisher.put_and_send = add
        for message in scope._run.announcement():
            recorder.add(message, encode(message))
        yield
        scope.detach()


@pytest.fixture
def train(tmp_path):
    """Train a model for some steps and record it; return the path.

    before, after: by step, functions of (model, optimizer) that are called before and after it. make: makes the model.
    """

    def run(
        name, *, steps=6, seed=0, make=Net, data=None, lr=0.1, before=None, after=None, digest=True, start_step=0,
        every=1, optimizer=torch.optim.SGD, prepare=None, **options,
    ):  # fmt: skip
        torch.manual_seed(seed)
        model = make()
        chosen = optimizer(model.parameters(), lr=lr, **options)
        if prepare is not None:
            prepare(model, chosen)
        data = batches(steps) if data is None else data
        path = tmp_path / f"{name}.gradscope"
        with ExitStack() as opened:
            scope = gradscope.attach(
                model,
                chosen,
                name=name,
                hub=None,
                quiet=True,
                every=every,
                digest=digest,
                start_step=start_step,
            )
            opened.enter_context(recorded(scope, path))
            for step in range(steps):
                for function in (before or {}).get(step, ()):
                    function(model, chosen)
                loss = (model(data.inputs[step]) - data.targets[step]).square().mean()
                scope.log(loss=loss)
                chosen.zero_grad()
                loss.backward()
                chosen.step()
                for function in (after or {}).get(step, ()):
                    function(model, chosen)
        return path

    return run


@pytest.fixture
def compare():
    """Compare two recordings."""

    def of(a, b, **options):
        with open_side(str(a)) as one, open_side(str(b)) as two:
            return compare_runs(one, two, **options)

    return of


@pytest.fixture
def make_batches():
    return batches


@pytest.fixture
def net():
    return Net
