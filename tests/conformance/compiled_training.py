"""Trains small models under torch.compile and prints what came of it, as JSON: one line a model.

    python compiled_training.py BACKEND bare|attached [NAME …]

BACKEND "none" is eager mode. Bare and attached runs need a process each: code that was compiled for one
would serve the other.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator

import torch
import torch._dynamo.utils
from torch import nn
from torch.utils.checkpoint import checkpoint

STEPS = 5


@dataclasses.dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


class Splits(nn.Module):
    """Returns several tensors in one of the usual ways."""

    def __init__(self, pack: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 12)
        self.pack = pack

    def forward(self, x):
        return self.pack(*self.linear(x).tanh().chunk(2, dim=-1))


class Joins(nn.Module):
    def __init__(self, pack, unpack) -> None:
        super().__init__()
        self.splits, self.unpack, self.last = Splits(pack), unpack, nn.Linear(6, 3)

    def forward(self, x):
        first, second = self.unpack(self.splits(x))
        return self.last(first * second)


class RootWithParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(6, 6), nn.Parameter(torch.ones(6))

    def forward(self, x):
        return (self.linear(x) * self.scale).square().mean()


class ConvBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x):
        x = x.view(-1, 1, 2, 3).expand(-1, 2, -1, -1)
        return self.head(self.relu(self.norm(self.conv(x))).mean((2, 3)))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(torch.relu(self.layer(torch.tanh(self.layer(x)))))


class ViewThenInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.flat, self.last = nn.Linear(6, 6), nn.Unflatten(1, (2, 3)), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(torch.relu_(self.flat(self.first(x))))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = (
            nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6)),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x):
        q, k, v = (t.reshape(1, 2, -1, 3) for t in self.qkv(self.norm(x)).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed.reshape(-1, 6))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "in-place": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)
    ),
    "tuple": lambda: Joins(lambda a, b: (a, b), lambda out: out),
    "nested": lambda: Joins(lambda a, b: [a, (b, None, 3)], lambda out: (out[0], out[1][0])),
    "dict": lambda: Joins(
        lambda a, b: {"left": a, "right": b}, lambda out: (out["left"], out["right"])
    ),
    "dataclass": lambda: Joins(Pair, lambda out: (out.first, out.second)),
    "root": RootWithParameters,
    "conv": ConvBlock,
    "shared": Shared,
    "view": ViewThenInPlace,
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
    "checkpoint": Checkpointed,
    "attention": Attention,
    "frozen": lambda: nn.Sequential(
        nn.Linear(6, 6).requires_grad_(requires_grad=False), nn.Linear(6, 3)
    ),
}


def train(name: str, backend: str, *, is_attached: bool) -> dict[str, object]:
    """Train one model; among its steps are two forwards in one backward, and accumulated gradients."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = MODELS[name]()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    scope = None
    if is_attached:
        import gradscope

        scope = gradscope.attach(model, optimizer, every=2, hub=None, quiet=True)
    net = model if backend == "none" else torch.compile(model, fullgraph=True, backend=backend)
    digest, observed = hashlib.sha256(), {}
    for step in range(STEPS):
        optimizer.zero_grad()
        for loss in losses(net, step):
            loss.backward()
            digest.update(loss.detach().numpy().tobytes())
        for p in model.parameters():
            if p.grad is not None:
                digest.update(p.grad.numpy().tobytes())
        optimizer.step()
        if scope is not None and step % 2 == 0:
            observed[step] = scope.latest().to_dict()
    digest.update(torch.get_rng_state().numpy().tobytes())
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    result = {
        "name": name,
        "digest": digest.hexdigest(),
        "graphs": torch._dynamo.utils.counters["stats"].get("unique_graphs", 0),
        "breaks": dict(torch._dynamo.utils.counters["graph_break"]),
        "observed": observed,
        "faults": scope.faults if scope is not None else {},
    }
    if scope is not None:
        scope.detach()
    return result


def losses(net: Callable[[torch.Tensor], torch.Tensor], step: int) -> Iterator[torch.Tensor]:
    """Yield the losses of a step: of one forward, of two at once, or one after the other."""
    first, second = torch.randn(4, 6), torch.randn(4, 6)
    if step == 2:
        yield net(first).square().mean() + net(second).square().mean()
    elif step in (3, 4):
        yield net(first).square().mean()
        yield net(second).square().mean()
    else:
        yield net(first).square().mean()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, backend, how, *names = sys.argv
    for name in names or MODELS:
        print(json.dumps(train(name, backend, is_attached=how == "attached")), flush=True)
