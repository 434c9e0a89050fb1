"""The series of a step against PyTorch's own numbers."""

import statistics

import pytest
import torch
from torch import nn

import gradscope
from gradscope.trackers.series import layer_series, step_series


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.body(self.embed(tokens))))


@pytest.fixture
def observed():
    """Return a function: the table of one step, and PyTorch's total norm and update ratios of it."""

    def train(factor=1.0):
        torch.manual_seed(0)
        model = Tied()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gradscope.attach(model, optimizer, every=1, hub=None, record=False, quiet=True) as scope:
            tokens = torch.randint(0, 8, (16,))
            (nn.functional.cross_entropy(model(tokens), tokens) * factor).backward()
            total = nn.utils.get_total_norm(p.grad for p in model.parameters())
            before = [p.detach().clone() for p in (model.embed.weight, *model.body.parameters())]
            optimizer.step()
            after = [p.detach() for p in (model.embed.weight, *model.body.parameters())]
            steps = [(a - b).double().square().sum() for a, b in zip(after, before, strict=True)]
            norms = [b.double().square().sum() for b in before]
            embed = (steps[0] / norms[0]).sqrt().item()
            body = ((steps[1] + steps[2]) / (norms[1] + norms[2])).sqrt().item()
            return scope.latest(), total.item(), [embed, body, embed]

    return train


def test_the_total_norm_counts_a_shared_parameter_once(observed):
    table, total, ratios = observed()
    series = step_series(table)
    assert series["gradscope/grad_norm"] == pytest.approx(total, rel=1e-5)
    assert series["gradscope/update_ratio_median"] == pytest.approx(statistics.median(ratios), rel=1e-4)
    assert series["gradscope/nonfinite"] == 0


def test_a_norm_that_is_not_known_has_no_point(observed):
    table, _, _ = observed(factor=float("inf"))
    series = step_series(table)
    assert "gradscope/grad_norm" not in series
    assert series["gradscope/nonfinite"] > 0


def test_layers_have_series_only_if_they_are_named(observed):
    table, _, ratios = observed()
    series = layer_series(table, ["body"])
    assert sorted(series) == [
        f"layers/body/{name}" for name in ("grad_norm", "out_rms", "param_grad_norm", "update_ratio")
    ]
    assert series["layers/body/update_ratio"] == pytest.approx(ratios[1], rel=1e-4)
