"""Models of as many small layers as asked for, to see what grows with their number."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from benchmarks.workloads import Training

__all__ = ["chain"]

_RATE = 1e-7
"""So little that thousands of layers one after the other stay near the identity."""


def chain(layers: int, *, width: int, batch: int = 8) -> Training:
    """Return the training of a number of square Linear layers, which begin as the identity.

    What they pass on neither vanishes nor explodes, in whatever number: subnormals would slow the bare
    training down.
    """
    made = [nn.Linear(width, width) for _ in range(layers)]
    model = nn.Sequential(*made)
    for layer in made:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    x, y = torch.randn(batch, width), torch.randn(batch, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    return Training(model, optimizer, lambda: F.mse_loss(model(x), y))
