"""Networks whose memory is measured, and an independent count of what they keep."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class GPTBlock(nn.Module):
    """Attention and MLP, pre-norm, with dropout."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.proj(attended.transpose(1, 2).reshape(b, t, d)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Residual(nn.Module):
    """Two convolutions with BatchNorm, and one ReLU used twice, in place."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + x)


class ResNet(nn.Module):
    """A stem, two residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Residual(), Residual())
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """An embedding, two layers of LSTM, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


class Checkpointed(nn.Module):
    """Three blocks, of which each is computed again in the backward pass."""

    def __init__(self, *, is_reentrant: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(GPTBlock() for _ in range(3))
        self.head = nn.Linear(32, 5)
        self.is_reentrant = is_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.is_reentrant, preserve_rng_state=False)
        return self.head(x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "GPT block": (GPTBlock, lambda: torch.randn(2, 16, 32)),
    "ResNet": (ResNet, lambda: torch.randn(2, 3, 16, 16)),
    "LSTM": (Recurrent, lambda: torch.randint(0, 50, (3, 7))),
}


def keys(tensors) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def independent_count(model: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    """Return the bytes saved by each module, counted by identity hooks while it computes.

    Storages count once, for the module that saved them first; parameters, buffers and inputs do not.
    """
    line: list[str] = []
    saved: Counter[str] = Counter()
    kept: list[torch.Tensor] = []  # so that no storage's place is given to another
    seen = keys([*model.parameters(), *model.buffers(), *inputs])

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            saved[line[-1]] += storage.nbytes()
        kept.append(tensor)
        return tensor

    handles = []
    for name, module in model.named_modules():
        enter = lambda *_, name=name: line.append(name)  # noqa: E731 - one of a pair
        leave = lambda *_: line.pop() and None  # noqa: E731 - returns nothing
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(*inputs)
    for handle in handles:
        handle.remove()
    return dict(saved)


@pytest.fixture(params=NETWORKS, ids=str)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    """A network and a batch for it, the same in every test."""
    make_model, make_batch = NETWORKS[request.param]
    torch.manual_seed(0)
    return make_model(), make_batch()


@pytest.fixture
def make_checkpointed() -> Callable[[bool], nn.Module]:
    def make(is_reentrant: bool) -> nn.Module:
        torch.manual_seed(0)
        return Checkpointed(is_reentrant=is_reentrant)

    return make


@pytest.fixture
def count_independently() -> Callable[..., dict[str, int]]:
    return independent_count
