"""Rules over a recording give the alerts and findings that they gave in the training process."""

import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import gradscope
from gradscope.recording import open_recording
from gradscope.rules import finding_of, replay_rules, views_of


def spiking(step, model):
    loss = model(X).square().mean() * (1e3 if step == 50 else 1.0)
    if step == 56:
        with torch.no_grad():
            model[0].weight[0, 0] = float("nan")
    return loss


def diverging(step, model):
    return 1e3 * (model(X) - 1.0).square().mean()


def dying(step, model):
    if step == 0:
        torch.nn.init.constant_(model[0].bias, -100.0)
    return model(X).square().mean()


def without_batch(found):
    """A recording does not have the inputs, so it cannot name the batch of a spike."""
    evidence = {k: v for k, v in found.evidence.items() if k not in ("batch", "last_batch", "digest")}
    message = re.sub("; batch .*", "", found.message)
    assert (message == found.message) == (evidence == found.evidence) == (found.code != "loss-spike")
    return replace(found, message=message, evidence=evidence)


X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("activation", "loss_of", "options", "expected"),
    [
        (nn.Tanh, spiking, {"lr": 1e-3}, {"spike", "loss_spike", "nonfinite"}),
        (nn.ReLU, diverging, {"lr": 1.0}, {"update_ratio"}),
        (nn.ReLU, dying, {"lr": 0.0}, {"dead", "no_update"}),
        (nn.Tanh, dying, {"lr": 0.1, "weight_decay": 1.0}, {"saturated", "weight_decay"}),
    ],
)
def test_replaying_a_recording_gives_the_alerts_and_findings_of_the_live_run(
    hub, places, wait_until, activation, loss_of, options, expected
):
    path = places / "run.gradscope"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), **options)
    told = []
    with gradscope.attach(model, optimizer, every=1, record=path, name="run", quiet=True) as scope:
        scope.on_alert(told.append)
        wait_until(lambda: scope.endpoint is not None, "the hub")
        for step in range(60):
            optimizer.zero_grad()
            loss = loss_of(step, model)
            loss.backward()
            scope.log(loss=loss.detach() + 0.01 * math.sin(step))
            optimizer.step()
    assert {alert.rule for alert in told} >= expected

    def is_ended():
        with open_recording(path) as recording:
            return recording.info.ended_s is not None

    wait_until(lambda: path.exists() and is_ended(), "the end of the recording")
    with open_recording(path) as recording:
        messages = itertools.chain([recording.manifest()], recording.steps())
        again = list(replay_rules(views_of(messages, recording.scalars())))
        recorded = [event.finding for event in recording.events() if event.alert is not None]
    live = list(map(finding_of, told))
    assert list(map(finding_of, again)) == [without_batch(found) for found in live]
    others = [found for found in live if found.code != "nonfinite"]  # a NaN is reported with its origin
    assert [each for each in recorded if each is not None and each.code != "nonfinite"] == others
