"""The plainest models and batches, which most cases share."""

import torch
from torch import nn

__all__ = ["images", "linear_stack", "mlp", "rows"]


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2)
    )


def linear_stack(depth: int = 3) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(6, 6) for _ in range(depth)))


def rows() -> torch.Tensor:
    return torch.randn(5, 6)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6)
