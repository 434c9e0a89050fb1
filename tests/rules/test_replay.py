"""Rules over a recording give the alerts that they gave in the training process."""

import itertools
import math

import torch
from torch import nn

import gradscope
from gradscope.recording import open_recording
from gradscope.rules import replay_rules, views_of


def test_replaying_a_recording_gives_the_alerts_of_the_live_run(hub, places, wait_until):
    path = places / "run.gradscope"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(7, 4)
    told = []
    with gradscope.attach(model, optimizer, every=1, record=path, name="run", quiet=True) as scope:
        scope.on_alert(told.append)
        wait_until(lambda: scope.endpoint is not None, "the hub")
        for step in range(60):
            optimizer.zero_grad()
            loss = model(x).square().mean() * (1e3 if step == 50 else 1.0)
            loss.backward()
            scope.log(loss=loss.detach() + 0.01 * math.sin(step))
            optimizer.step()
            if step == 55:
                with torch.no_grad():
                    model[0].weight[0, 0] = float("nan")
    assert {alert.rule for alert in told} >= {"spike", "loss_spike", "nonfinite"}

    def is_ended():
        with open_recording(path) as recording:
            return recording.info.ended_s is not None

    wait_until(lambda: path.exists() and is_ended(), "the end of the recording")
    with open_recording(path) as recording:
        messages = itertools.chain([recording.manifest()], recording.steps(), recording.scalars())
        again = list(replay_rules(views_of(messages)))
        recorded = [event.alert for event in recording.events() if event.alert is not None]
    order = lambda alert: (alert.rule, alert.step, alert.finding.layer, alert.finding.kind)  # noqa: E731 - a key
    assert [order(a) for a in sorted(again, key=order)] == [order(a) for a in sorted(told, key=order)]
    assert sorted((info.rule, info.layer, info.first_step) for info in recorded) == sorted(
        (alert.rule, alert.finding.layer, alert.first_step) for alert in told
    )
