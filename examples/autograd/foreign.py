"""Other libraries in a graph: NumPy computes the value, and backward has the derivative.

It cannot be differentiated twice. once_differentiable raises an error then, so no result is wrong.
"""

import numpy as np
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class NumpySinc(Function):
    """y = sin(πx) / (πx) by NumPy; dx = (cos(πx) - y) / x · dy, and 0 at 0."""

    @staticmethod
    def forward(ctx, x):
        y = torch.from_numpy(np.sinc(x.detach().cpu().numpy())).to(x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, y = ctx.saved_tensors
        is_zero = x == 0
        slope = (torch.cos(torch.pi * x) - y) / torch.where(is_zero, 1, x)
        return torch.where(is_zero, 0, slope) * dy


def example_inputs():
    """Return what the doctor examines each Function on."""
    return {"NumpySinc": (torch.linspace(-2.1, 2.3, 12).reshape(3, 4),)}


if __name__ == "__main__":
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    y = NumpySinc.apply(x)
    y.sum().backward()
    print("sinc:", [round(v, 4) for v in y.tolist()], "slope:", [round(v, 4) for v in x.grad.tolist()])
    print("the same from torch:", torch.allclose(torch.sinc(x), y))
