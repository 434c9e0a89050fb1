"""Gradients that are meant to differ from the derivative, and a loss that spares its target.

Reversal: Ganin and Lempitsky, 2015. Straight-through: Bengio et al., 2013. All of these, ready to use,
are in `gradscope.functional`.
"""

import torch
from torch.autograd import Function


class Reverse(Function):
    """y = x, dx = -dy."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return -dy


class Scale(Function):
    """y = x, dx = α dy. With α = -1 a reversal."""

    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return ctx.alpha * dy, None


class Stop(Function):
    """y = x, dx = 0."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return 0 * dy


class Binarise(Function):
    """y = sign(x), dx = dy: straight through."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, dy):
        return dy.clone()


class ClipWhenAsked(Function):
    """y = x, dx = dy, or dy between -1 and 1 where `is_clipped`."""

    @staticmethod
    def forward(ctx, x, is_clipped):
        ctx.is_clipped = is_clipped
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return (dy.clamp(-1, 1) if ctx.is_clipped else dy), None


class LossSparingTarget(Function):
    """y = Σ (x - t)² / n, dx = 2 (x - t) / n · dy; the target t gets no gradient."""

    @staticmethod
    def forward(ctx, x, target):
        ctx.save_for_backward(x, target)
        return ((x - target) ** 2).mean()

    @staticmethod
    def backward(ctx, dy):
        x, target = ctx.saved_tensors
        return 2 * (x - target) / x.numel() * dy, None


def example_inputs():
    """Return what the doctor examines each Function on."""
    x = torch.tensor([[0.5, -1.2, 2.0], [1.5, -0.3, 0.8]])
    return {
        "Reverse": (x,),
        "Scale": (x, 0.5),
        "Stop": (x,),
        "Binarise": (x,),
        "ClipWhenAsked": (x, True),
        "LossSparingTarget": (x.clone().requires_grad_(), x + 1),
    }


if __name__ == "__main__":
    for function, arguments in (
        (Reverse, ()),
        (Scale, (0.5,)),
        (Stop, ()),
        (Binarise, ()),
        (ClipWhenAsked, (True,)),
    ):
        x = torch.tensor(5.0, requires_grad=True)
        y = function.apply(x, *arguments)
        (3 * y).backward()
        print(f"{function.__name__:14} value {y.item():g}, gradient of 3y: {x.grad.item():g}")
    x = torch.tensor(5.0, requires_grad=True)
    Reverse.apply(x).backward()
    print("reversal at 5:", x.grad.item())
