"""A one-dimensional convolution, forward and backward from torch's own building blocks."""

import torch
from torch.autograd import Function
from torch.nn import functional


class Conv1d(Function):
    """y = x ⋆ w; dx = dy ⋆ᵀ w (a transposed convolution), dw = Σ_B x ⋆ dy.

    x (B, C, L), w (O, C, K), y (B, O, (L + 2 padding - K) // stride + 1).
    """

    @staticmethod
    def forward(ctx, x, w, stride=1, padding=0):
        ctx.save_for_backward(x, w)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv1d(x, w, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = torch.nn.grad.conv1d_input(x.shape, w, dy, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            dw = torch.nn.grad.conv1d_weight(x, w.shape, dy, ctx.stride, ctx.padding)
        return (dx, dw, None, None)[: len(ctx.needs_input_grad)]


def example_inputs():
    """Return what the doctor examines each Function on."""
    g = torch.Generator().manual_seed(0)
    return {"Conv1d": (torch.randn(2, 3, 9, generator=g), torch.randn(4, 3, 3, generator=g), 2, 1)}


if __name__ == "__main__":
    x, w, stride, padding = example_inputs()["Conv1d"]
    y = Conv1d.apply(x.requires_grad_(), w.requires_grad_(), stride, padding)
    y.sum().backward()
    print("shapes:", tuple(y.shape), tuple(x.grad.shape), tuple(w.grad.shape))
