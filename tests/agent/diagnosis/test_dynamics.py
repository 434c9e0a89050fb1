"""Faults that develop over time are found in real trainings in time; sound trainings are silent."""

import math

import pytest
import torch
from torch import nn

import gradscope

pytestmark = pytest.mark.slow

F = nn.functional


def mlp(*, depth=2, activation=nn.ReLU, width=32, outputs=3):
    layers = [nn.Linear(16, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def scaled(model, factor):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def train(model, optimizer, steps, *, change=lambda step, x, y: (x, y), clip=None, schedule=None):
    """Train a classifier on separable data; return its errors and warnings, then its hints, by code."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(16, 3, generator=generator)
    rates = None if schedule is None else torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for step in range(steps):
            x = torch.randn(32, 16, generator=generator)
            x, y = change(step, x, (x @ truth).argmax(1))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if rates is not None:
                rates.step()
            scope.log(loss=loss)
        assert scope.faults == {}
        loud = {each.code: each for each in scope.findings if each.severity != "hint"}
        return loud, {each.code: each for each in scope.findings if each.severity == "hint"}


def make(model, optimizer=torch.optim.Adam, rate=1e-3, **options):
    return lambda: (model(), lambda parameters: optimizer(parameters, rate, **options))


def dying():
    model = mlp()
    nn.init.constant_(model[2].bias, -30.0)
    return model


def noise(step, x, y):
    return x, torch.randint(0, 3, (len(y),), generator=torch.Generator().manual_seed(step))


def bad_batch(step, x, y):
    return (x * 300, (y + 1) % 3) if step == 60 else (x, y)


FAULTS = {
    "vanishing-gradient": (make(lambda: mlp(depth=14, activation=nn.Sigmoid), torch.optim.SGD, 0.1), 20, {}),
    "exploding-gradient": (make(lambda: scaled(mlp(depth=14), 8.0), torch.optim.SGD, 1e-12), 20, {}),
    "dead-units": (make(dying), 20, {}),
    "learning-rate-too-high": (make(mlp, rate=0.5), 100, {}),
    "learning-rate-too-low": (make(mlp, torch.optim.SGD, 1e-9), 100, {}),
    "no-update": (make(mlp, rate=0.0), 20, {}),
    "weight-decay-too-strong": (make(mlp, torch.optim.SGD, 0.1, weight_decay=2.0), 100, {}),
    "clipping-always": (make(mlp, torch.optim.SGD, 0.1), 20, {"clip": 1e-4}),
    "loss-spike": (make(mlp), 62, {"change": bad_batch}),
}  # fmt: skip


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found_in_time(code):
    torch.manual_seed(0)
    made, steps, options = FAULTS[code]
    model, optimizer = made()
    loud, hints = train(model, optimizer(model.parameters()), steps, **options)
    assert code in loud | hints, (loud, hints)
    if code == "vanishing-gradient":
        assert loud[code].layers[0] == "0"
    if code == "dead-units":
        assert loud[code].layers[0] == "3"
    if code == "loss-spike":
        assert loud[code].found_step == 60


SOUND = {
    "Adam": (make(mlp), {}),
    "Adam with a rate of 0.01": (make(mlp, rate=1e-2), {}),
    "AdamW": (make(mlp, torch.optim.AdamW, 1e-3, weight_decay=0.1), {}),
    "SGD with momentum and weight decay": (
        make(mlp, torch.optim.SGD, 0.05, momentum=0.9, weight_decay=5e-4), {},
    ),
    "RMSprop": (make(mlp, torch.optim.RMSprop), {}),
    "four Tanh layers": (make(lambda: mlp(depth=4, activation=nn.Tanh), torch.optim.SGD, 0.1), {}),
    "two sigmoid layers": (make(lambda: mlp(activation=nn.Sigmoid), rate=3e-3), {}),
    "a warm-up from 0": (make(mlp), {"schedule": lambda step: min(1.0, step / 30)}),
    "a cosine to 0": (make(mlp), {"schedule": lambda step: 0.5 * (1 + math.cos(math.pi * step / 100))}),
    "clipping at 1": (make(mlp, torch.optim.SGD, 0.1), {"clip": 1.0}),
    "labels without information": (make(mlp), {"change": noise}),
    "small outputs at first": (make(lambda: scaled(mlp(), 0.5)), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_training_is_silent(name):
    torch.manual_seed(0)
    made, options = SOUND[name]
    model, optimizer = made()
    loud, _ = train(model, optimizer(model.parameters()), 100, **options)
    assert {code: each.message for code, each in loud.items()} == {}
