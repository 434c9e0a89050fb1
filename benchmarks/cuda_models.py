"""The trainings of `benchmarks.cuda`: three small models, and a GPT."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it

__all__ = ["MODELS", "PRECISIONS", "DeviceTraining", "make_gpt", "make_training"]

PRECISIONS: Final = ("float32", "bfloat16 autocast", "float16 with GradScaler")


@dataclass(frozen=True, slots=True)
class DeviceTraining:
    """A model in training on one device, the same batch in each step. scaler: a GradScaler or None."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[], Tensor]
    scaler: "torch.amp.GradScaler | None" = None
    second: None = None

    def step(self) -> Tensor:
        """Train one step and return the loss, on the device."""
        self.optimizer.zero_grad()
        loss = self.loss()
        if self.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # as above
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()


class _Block(nn.Module):
    """A transformer block with pre-normalisation and causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.act, self.proj = (
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        y: Tensor = x + self.proj(self.act(self.fc(self.norm2(x))))
        return y


def _mlp() -> tuple[nn.Module, Tensor]:
    layers = (nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(inplace=True), nn.Dropout(0.1))
    return nn.Sequential(*layers, nn.Linear(128, 8)), torch.randn(32, 64)


def _cnn() -> tuple[nn.Module, Tensor]:
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    head = (nn.Conv2d(16, 32, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(32 * 64, 8))
    return nn.Sequential(*layers, *head), torch.randn(16, 3, 16, 16)


def _transformer() -> tuple[nn.Module, Tensor]:
    blocks = (_Block(64, 4), _Block(64, 4))
    model = nn.Sequential(nn.Embedding(50, 64), *blocks, nn.LayerNorm(64), nn.Flatten())
    return nn.Sequential(model, nn.Linear(64 * 16, 8)), torch.randint(50, (8, 16))


MODELS: Final = {"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}


def make_training(name: str, precision: str, device: torch.device) -> DeviceTraining:
    """Make one of `MODELS` with the same seed each time, in one of `PRECISIONS`."""
    torch.manual_seed(0)
    model, x = MODELS[name]()
    y = torch.randint(8, (len(x),)).to(device)
    model, x = model.to(device), x.to(device)
    torch.manual_seed(1)
    dtype = {PRECISIONS[1]: torch.bfloat16, PRECISIONS[2]: torch.float16}.get(precision)
    scaler = torch.amp.GradScaler(device.type) if dtype is torch.float16 else None

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return F.cross_entropy(model(x).float(), y)

    return DeviceTraining(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss, scaler)


def make_gpt(
    device: torch.device,
    *,
    batch: int,
    width: int,
    layers: int,
    length: int = 256,
    vocabulary: int = 4096,
) -> DeviceTraining:
    """Make a GPT over `length` tokens, trained in bfloat16 autocast."""
    torch.manual_seed(0)
    blocks = [_Block(width, width // 64) for _ in range(layers)]
    ends = nn.LayerNorm(width), nn.Linear(width, vocabulary)
    model = nn.Sequential(nn.Embedding(vocabulary, width), *blocks, *ends).to(device)
    x, y = (torch.randint(vocabulary, (batch, length), device=device) for _ in range(2))

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return DeviceTraining(model, torch.optim.AdamW(model.parameters(), lr=1e-4), loss)
