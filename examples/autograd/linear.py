"""Linear maps. Shapes: x (B, I), w (O, I), b (O,), y (B, O)."""

import torch
from torch.autograd import Function


class Linear(Function):
    """y = x wᵀ + b; dx = dy w, dw = dyᵀ x, db = Σ_B dy. b may be left out."""

    @staticmethod
    def forward(ctx, x, w, b=None):
        ctx.save_for_backward(x, w)
        y = x @ w.t()
        return y if b is None else y + b

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        needs = (*ctx.needs_input_grad, False)
        dx = dy @ w if needs[0] else None
        dw = dy.t() @ x if needs[1] else None
        db = dy.sum(0) if needs[2] else None
        return (dx, dw, db)[: len(ctx.needs_input_grad)]


class MatmulTransposed(Function):
    """y = aᵀ b; da = b dyᵀ, db = a dy. a (K, M), b (K, N), y (M, N)."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a.t() @ b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        da = b @ dy.t() if ctx.needs_input_grad[0] else None
        db = a @ dy if ctx.needs_input_grad[1] else None
        return da, db


class LinearRelu(Function):
    """y = relu(x wᵀ + b) in one node; with d = dy (y > 0): dx = d w, dw = dᵀ x, db = Σ_B d."""

    @staticmethod
    def forward(ctx, x, w, b):
        y = (x @ w.t() + b).clamp(min=0)
        ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, y = ctx.saved_tensors
        through = dy * (y > 0)
        dx = through @ w if ctx.needs_input_grad[0] else None
        dw = through.t() @ x if ctx.needs_input_grad[1] else None
        db = through.sum(0) if ctx.needs_input_grad[2] else None
        return dx, dw, db


class ClampedLinear(Function):
    """y = x wᵀ with each element of dx and dw held between -1 and 1."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = (dy @ w).clamp(-1, 1) if ctx.needs_input_grad[0] else None
        dw = (dy.t() @ x).clamp(-1, 1) if ctx.needs_input_grad[1] else None
        return dx, dw


def example_inputs():
    """Return what the doctor examines each Function on."""
    g = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(shape, generator=g) for shape in ((5, 3), (4, 3), (4,)))
    return {
        "Linear": (x, w, b),
        "MatmulTransposed": (x.t().contiguous(), torch.randn(3, 2, generator=g)),
        "LinearRelu": (x, w, b),
        "ClampedLinear": (3 * x, 3 * w),
    }


if __name__ == "__main__":
    x, w, b = (t.requires_grad_() for t in example_inputs()["Linear"])
    Linear.apply(x, w, b).square().sum().backward()
    ours = x.grad.clone()
    x.grad = None
    torch.nn.functional.linear(x, w, b).square().sum().backward()
    print("largest difference to torch's linear:", (ours - x.grad).abs().max().item())
    x, w = (t.requires_grad_() for t in example_inputs()["ClampedLinear"])
    ClampedLinear.apply(x, w).sum().backward()
    print("largest clamped gradient:", x.grad.abs().max().item(), w.grad.abs().max().item())
