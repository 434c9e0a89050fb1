"""Numbers that break careless statistics."""

import torch
from torch import nn
from trials import Case, Trial, trained
from trials.case import train

__all__ = ["CASES"]


class Gives(nn.Module):
    """Returns a function of its input times its parameter."""

    def __init__(self, function=lambda x: x, dtype=torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.function = function

    def forward(self, x):
        return self.function(x * self.weight)


def giving(make_input, function=lambda x: x, *, dtype=torch.float32, scale=1.0):
    """Return a case in which a layer's output is what a function makes of an input."""

    def run(t: Trial) -> None:
        model = t.watch(nn.Sequential(Gives(function, dtype), nn.Identity()))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
        for _ in range(2):
            optimizer.zero_grad()
            output = model(make_input().to(dtype))
            (output * scale).sum().backward()
            t.step(optimizer)
            t.keep(output)

    return run


def ramp(n=1000):
    return torch.linspace(-1, 1, n)


def with_holes(*values):
    def make():
        x = ramp()
        x[:: 1000 // len(values)] = torch.tensor(values)
        return x

    return make


def without_a_batch(t: Trial) -> None:
    model = t.watch(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))
    train(t, model, [torch.randn(0, 6), torch.randn(3, 6)])


def flushed(t: Trial) -> None:
    """Subnormal numbers are counted, though the processor takes them for zero."""
    if not torch.set_flush_denormal(True):
        return
    try:
        t.without_reference()
        giving(lambda: ramp() * 1e-40)(t)
    finally:
        torch.set_flush_denormal(False)


NAN, INF = float("nan"), float("inf")

CASES = (
    Case("NaN among the outputs", giving(with_holes(NAN, 1.0))),
    Case("both infinities and NaN", giving(with_holes(INF, -INF, NAN, 0.0))),
    Case("nothing but NaN", giving(lambda: torch.full((7,), NAN))),
    Case("nothing but infinity", giving(lambda: torch.full((7,), INF))),
    Case("gradients that are infinite", giving(ramp, scale=INF)),
    Case("gradients that are NaN", giving(ramp, lambda x: x.sqrt())),
    Case("mean ten thousand times the deviation", giving(lambda: 1e4 + torch.randn(4096))),
    Case("mean a million times the deviation", giving(lambda: 1e6 + torch.randn(4096))),
    Case("one outlier of 1e20", giving(lambda: torch.cat((torch.randn(5000), torch.tensor([1e20]))))),
    Case("squares beyond float32", giving(lambda: torch.randn(512) * 1e25)),
    Case("squares beyond float16", giving(lambda: torch.randn(512) * 6e3, dtype=torch.float16)),
    Case("a sum beyond float16", giving(lambda: torch.full((9000,), 100.0), dtype=torch.float16)),
    Case("bfloat16 at its border", giving(lambda: torch.randn(512) * 1e38, dtype=torch.bfloat16)),
    Case("subnormal float32", giving(lambda: ramp() * 1e-40)),
    Case("subnormal float16", giving(lambda: ramp() * 1e-6, dtype=torch.float16)),
    Case("subnormal bfloat16", giving(lambda: ramp() * 1e-39, dtype=torch.bfloat16)),
    Case("subnormal while they are flushed to zero", flushed),
    Case("both zeros", giving(lambda: torch.tensor([0.0, -0.0, 1.0, -1.0]))),
    Case("one element", giving(lambda: torch.tensor([3.0]))),
    Case("zero dimensions", giving(lambda: torch.tensor(3.0))),
    Case("float64 that float32 cannot hold", giving(
        lambda: ramp().double() * 1e150, dtype=torch.float64)),
    Case("no batch, then one of three", without_a_batch),
    Case("a block's border: 32,767, 32,768 and 32,769 elements", giving(
        lambda: torch.randn(32769), lambda x: (x[:32767], x[:32768], x)[2])),
    Case("every second element", giving(lambda: torch.randn(70000), lambda x: x[::2])),
    Case("transposed in four dimensions", giving(
        lambda: torch.randn(3, 4, 5, 6), lambda x: x.permute(2, 0, 3, 1))),
    Case("channels last", trained(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to(memory_format=torch.channels_last),
        lambda: torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last))),
    Case("windows that overlap", giving(lambda: torch.randn(100), lambda x: x.unfold(0, 10, 3))),
    Case("a conjugate view", giving(
        lambda: torch.randn(40), lambda x: torch.view_as_real(torch.complex(x, x).conj())[..., 1])),
)  # fmt: skip
