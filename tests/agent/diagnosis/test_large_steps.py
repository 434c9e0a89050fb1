"""A learning rate that kills units or makes the output constant is named; the same damage from another cause is not."""

import pytest
import torch
from torch import nn

import gradscope

pytestmark = pytest.mark.slow

F = nn.functional


def mlp(depth=2):
    layers = [nn.Linear(16, 64), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 4))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 32, 3), nn.Linear(32 * 4, 4)

    def forward(self, x):
        x = F.relu(self.first(x.view(-1, 1, 4, 4)))
        return self.last(x.flatten(1))


class Tokens(nn.Module):
    """A transformer over the 16 numbers, binned."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.embedding = nn.Embedding(8, 32)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        tokens = (x * 2 + 4).long().clamp(0, 7)
        return self.head(self.blocks(self.embedding(tokens)).mean(1))


def verdict_of(model, rate, optimizer=torch.optim.Adam, steps=40, change=lambda model, step: None):
    """The verdict, and the changes of the weights measured by the test itself."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(16, 4, generator=generator)
    optimizer = optimizer(model.parameters(), rate)
    changes, first = [], []
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for step in range(steps):
            x = torch.randn(64, 16, generator=generator)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), (x @ truth).argmax(1))
            loss.backward()
            before = [p.detach().clone() for p in model.parameters() if p.dim() > 1]
            first = before if step <= 1 else first
            optimizer.step()
            now = [p.detach() for p in model.parameters() if p.dim() > 1]
            if step:
                pairs = zip(now, before, first, strict=True)
                changes.append(sorted(float((a - b).norm() / c.norm()) for a, b, c in pairs))
            change(model, step)
            scope.log(loss=loss)
        assert scope.faults == {}
        return scope.diagnose(), [each[len(each) // 2] for each in changes]


@pytest.mark.parametrize("model", [mlp, lambda: mlp(4), Tokens])
@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_the_first_line_names_the_rate_and_the_dead_units_are_its_consequence(model, rate):
    torch.manual_seed(0)
    verdict, changes = verdict_of(model(), rate)
    first = verdict.findings[0]
    assert first.code == "learning-rate-too-high"
    assert verdict.headline.startswith("warning learning-rate-too-high: the learning rate is about")
    assert len(verdict.findings) == 1  # the others are its consequences
    assert {each.code for each in verdict.consequences[0]} & {"dead-units", "collapsed-output"}
    assert first.evidence["factor"] == pytest.approx(100 * first.evidence["update_ratio"])
    assert min(changes) / 3 < first.evidence["update_ratio"] < 3 * max(changes)


def kill(model, step):
    if not step:
        with torch.no_grad():
            model[2].bias -= 100.0


def test_units_that_another_cause_killed_are_reported_as_such():
    torch.manual_seed(0)
    verdict, _ = verdict_of(mlp(), 1e-3, change=kill)
    assert verdict.findings[0].code in ("dead-units", "collapsed-output")
    assert "learning-rate-too-high" not in {each.code for each in verdict.every()}


@pytest.mark.parametrize(
    ("model", "rate", "optimizer"),
    [
        (mlp, 3e-3, torch.optim.Adam),
        (mlp, 1e-2, torch.optim.Adam),
        (Tokens, 3e-3, torch.optim.AdamW),
        (Convolutions, 0.05, torch.optim.Adam),  # it learns fastest at this rate
        (mlp, 0.1, torch.optim.SGD),
    ],
)
def test_usual_rates_are_silent(model, rate, optimizer):
    torch.manual_seed(0)
    verdict, _ = verdict_of(model(), rate, optimizer, steps=100)
    assert not verdict.has_problem, verdict.lines()
