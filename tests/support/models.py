"""Small models with the same parameters in each call, and a plain training of one."""

import torch
from torch import nn

__all__ = ["batches", "make_deep_model", "make_model", "make_normalized_model", "train"]


def make_model(first=4, hidden=5, last=2):
    """Return two linear layers with Tanh between them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(first, hidden), nn.Tanh(), nn.Linear(hidden, last))


def make_deep_model(*, is_inplace=False):
    """Return three linear layers of 4, 5, 6 and 2 units; `is_inplace` is about the ReLU before the last."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.ReLU(inplace=is_inplace), nn.Linear(6, 2)
    )


def make_normalized_model():
    """Return a model of 6 inputs and 3 outputs that has buffers and draws random numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 3)
    )


def batches(count):
    """Return batches for `make_normalized_model`, the same in each call."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 6, generator=generator) for _ in range(count)]


def train(model, optimizer, data, after=lambda loss: None):
    """Train with a step for each batch; call `after` with the loss of each step."""
    for batch in data:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        after(loss)
