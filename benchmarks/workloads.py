"""The models that the benchmarks train: where hooks weigh most, and where they should not be felt."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

__all__ = ["WORKLOADS", "Training", "Workload"]


@dataclass(frozen=True, slots=True)
class Training:
    """A model in training; `step()` is one whole step, the same batch each time.

    The optimizer is plain SGD: the cheapest there is, under which hooks weigh most. `second` steps after it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[], Tensor]
    second: torch.optim.Optimizer | None = None

    def step(self) -> None:
        """Train one step."""
        optimizers = (self.optimizer,) if self.second is None else (self.optimizer, self.second)
        for each in optimizers:
            each.zero_grad()
        self.loss().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for each in optimizers:
            each.step()

    def times_s(self, count: int) -> list[float]:
        """Train a number of steps; return the seconds of each."""
        times_s = []
        for _ in range(count):
            began_s = time.perf_counter()
            self.step()
            times_s.append(time.perf_counter() - began_s)
        return times_s


@dataclass(frozen=True, slots=True)
class Workload:
    """`block` steps are timed at a stretch, before the setting is changed."""

    name: str
    what: str
    make: Callable[[], Training]
    block: int


def _small() -> Training:
    model = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(128, 128), nn.ReLU())))
    x, y = torch.randn(32, 128), torch.randn(32, 128)
    return _training(model, lambda: F.mse_loss(model(x), y))


def _small_with_two_optimizers() -> Training:
    training = _small()
    parameters = list(training.model.parameters())
    first, second = (torch.optim.SGD(parameters[i::2], lr=1e-3) for i in (0, 1))
    return Training(training.model, first, training.loss, second)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.linear(self.norm(x)))
        return x + y


def _deep() -> Training:
    model = nn.Sequential(*(_Residual(64) for _ in range(300)), nn.Linear(64, 10))
    x, y = torch.randn(32, 64), torch.randint(10, (32,))
    return _training(model, lambda: F.cross_entropy(model(x), y))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:  # noqa: N803 - the dimensions
        batch, length, width = x_BTD.shape
        split = self.qkv(x_BTD).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return y


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.fc, self.act, self.proj = (
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.proj(self.act(self.fc(self.norm2(x))))
        return x + y


class _GPT(nn.Module):
    def __init__(self, *, vocabulary: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def _gpt() -> Training:
    model = _GPT(vocabulary=65, length=256, width=384, heads=6, layers=6)
    x, y = torch.randint(65, (4, 256)), torch.randint(65, (4, 256))
    return _training(model, lambda: F.cross_entropy(model(x).flatten(0, 1), y.flatten()))


class _BasicBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.down: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.down = nn.Sequential(conv, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(y + self.down(x))
        return out


def _resnet() -> Training:
    widths, layers, inside = (64, 128, 256, 512), [], 64
    for i, width in enumerate(widths):
        layers += [_BasicBlock(inside, width, 1 if i == 0 else 2), _BasicBlock(width, width, 1)]
        inside = width
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), *layers,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    x, y = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    return _training(model, lambda: F.cross_entropy(model(x), y))


def _training(model: nn.Module, loss: Callable[[], Tensor]) -> Training:
    return Training(model, torch.optim.SGD(model.parameters(), lr=1e-3), loss)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small", "20 x (Linear 128 + ReLU), batch 32", _small, 60),
        Workload("two", "the same with two optimizers", _small_with_two_optimizers, 60),
        Workload("deep", "300 residual blocks of width 64, batch 32", _deep, 8),
        Workload("gpt", "6 layers of width 384, batch 4 x 256 tokens", _gpt, 2),
        Workload("resnet", "ResNet-18 for 32 x 32, in-place ReLU, batch 16", _resnet, 2),
    )
}
