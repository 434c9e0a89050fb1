"""The tasks on which programs train: a new batch of N samples in each call. All can be learned in 100 steps."""

from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["CLASSES", "FEATURES", "LENGTH", "TOKENS", "N"]
__all__ += [
    "Batch",
    "binary",
    "curve",
    "images",
    "numbers",
    "sentences",
    "sequences",
    "tokens",
    "vectors",
]

N, FEATURES, CLASSES = 32, 16, 4
TOKENS, LENGTH = 20, 6

Batch: TypeAlias = tuple[Tensor, Tensor]


def vectors(count: int = N) -> Batch:
    """Return vectors; the class is the largest of the first four features."""
    x = torch.randn(count, FEATURES)
    return x, x[:, :CLASSES].argmax(1)


def binary(count: int = N) -> Batch:
    """Return vectors; the label, of shape (count, 1), is the sign of the first feature."""
    x = torch.randn(count, FEATURES)
    return x, (x[:, :1] > 0).float()


def numbers(count: int = N) -> Batch:
    """Return vectors and targets of shape (count, 1) with mean 0."""
    x = torch.randn(count, FEATURES)
    return x, 2 * x[:, :1] - x[:, 1:2] + x[:, 2:3].sin()


def curve(count: int = N) -> Batch:
    """Return points of [-1, 1] and the sine there, both of shape (count, 1)."""
    x = torch.rand(count, 1) * 2 - 1
    return x, (3 * x).sin()


def images(count: int = N, size: int = 8) -> Batch:
    """Return images of shape (count, 1, size, size); one quadrant, the class, is brighter."""
    y, half = torch.randint(CLASSES, (count,)), size // 2
    bright = torch.zeros(count, 2, 2)
    bright.flatten(1).scatter_(1, y[:, None], 2.0)
    x = (
        torch.randn(count, 1, size, size)
        + bright.repeat_interleave(half, 1).repeat_interleave(half, 2)[:, None]
    )
    return x, y


def sequences(count: int = N, length: int = LENGTH) -> Batch:
    """Return sequences of shape (count, length, features); the last element has the class."""
    x = torch.randn(count, length, FEATURES)
    return x, x[:, -1, :CLASSES].argmax(1)


def tokens(count: int = N) -> Batch:
    """Return token ids of shape (count, LENGTH); the class is that of the first."""
    x = torch.randint(TOKENS, (count, LENGTH))
    return x, x[:, 0] % CLASSES


def sentences(count: int = N, length: int = LENGTH) -> Batch:
    """Return token ids and the next ids, both (count, length): each token is followed by the third after it."""
    x = (torch.randint(TOKENS, (count, 1)) + 3 * torch.arange(length + 1)) % TOKENS
    return x[:, :-1], x[:, 1:]
