"""A training that is stopped and resumed over a real hub: rightly, and wrongly in five ways."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.columns import Block
from gradscope.history import read_history
from gradscope.hub.resumption import Resumptions
from gradscope.protocol import Hello, Step, StepFacts, encode
from gradscope.protocol.bodies import pack_block
from gradscope.recording import list_recordings
from support.waiting import wait_for

pytestmark = pytest.mark.processes

STOP = 12


def batches():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(8, 4, generator=generator) for _ in range(40)]


def make(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


def train(parts, steps, start=0, data_from=None, digest=True):
    model, optimizer, scheduler = parts
    data = batches()
    with gradscope.attach(
        model, optimizer, name="pretraining", every=1, digest=digest, quiet=True, start_step=start
    ) as scope:
        for i in range(steps):
            x = data[(start if data_from is None else data_from) + i]
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            scope.log(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return [part.state_dict() for part in parts]


def ended(count):
    found = [info for info in list_recordings() if info.run == "pretraining"]
    return len(found) == count and all(info.ended_s is not None for info in found)


def findings():
    return [
        e.finding
        for e in read_history("pretraining").events
        if e.finding and e.finding.code == "resume-mismatch"
    ]


def test_a_hub_that_begins_later_than_the_run_compares_nothing():
    hello = Hello(role="agent", peer="p", run="pretraining", pid=1, started_s=1.0)
    columns, zero, body = pack_block(
        Block((), *[np.zeros(0, np.uint32)] * 2, np.zeros(0, np.uint8), {})
    )
    resumptions = Resumptions(lambda: None)
    for seq in range(500, 510):
        step = Step(
            run="pretraining", rank=0, seq=seq, step=12_000 + seq, time_s=0.0, manifest_revision=0, kinds=(), rows=0,
            columns=columns, zero=zero, body=body, facts=StepFacts(start_step=12_000),
        )  # fmt: skip
        resumptions.add(hello, step, encode(step), "")
    assert not [each for each in threading.enumerate() if each.name == "gradscope-hub-resume"]
    assert not list(resumptions.take_events())


WAYS = {
    "rightly": ((0, 1, 2), {}, []),
    "without the model": ((1, 2), {"seed": 5}, ["parameters"]),
    "without the optimizer": ((0,), {"keeps_lr": True}, ["optimizer-state"]),
    "with the learning rate of the start": ((0, 1), {"lr": 0.02}, ["learning-rate"]),
    "with the data of the start": ((0, 1, 2), {"data_from": 0}, ["data-position"]),
    "at another step": ((0, 1, 2), {"start": 20, "data_from": STOP}, ["step"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run(hub, way):
    loaded, options, expected = WAYS[way]
    states = train(make(), STOP)
    wait_for(lambda: ended(1), "the first recording")
    parts = make(options.get("seed", 0))
    for i in loaded:
        parts[i].load_state_dict(states[i])
    if options.get("keeps_lr"):
        parts[1].param_groups[0]["lr"] = states[1]["param_groups"][0]["lr"]
    if "lr" in options:
        parts[1].param_groups[0]["lr"] = options["lr"]
    train(parts, 8, options.get("start", STOP), options.get("data_from"))
    if not expected:
        wait_for(lambda: read_history("pretraining").steps == STOP + 8, "the last step")
        assert not findings()
        return
    wait_for(findings, "the finding")
    (each,) = {found.message: found for found in findings()}.values()  # of the hub and of the recording
    assert each.evidence["mismatches"].split(", ") == expected
    assert each.message.startswith(f"resumed at {options.get('start', STOP)}: ")
