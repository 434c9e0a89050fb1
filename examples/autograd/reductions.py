"""Broadcasting and its reverse: what forward expands, backward sums, and the other way."""

import torch
from torch.autograd import Function


class ChannelBias(Function):
    """y = x + b over channels; dx = dy, db = Σ_{N,H,W} dy. x (N, C, H, W), b (C,)."""

    @staticmethod
    def forward(ctx, x, b):
        return x + b.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, dy):
        return dy, (dy.sum((0, 2, 3)) if ctx.needs_input_grad[1] else None)


class BroadcastMultiply(Function):
    """y = a b for any shapes that broadcast; da = dy b and db = dy a, each summed to its own shape."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        da = (dy * b).sum_to_size(a.shape) if ctx.needs_input_grad[0] else None
        db = (dy * a).sum_to_size(b.shape) if ctx.needs_input_grad[1] else None
        return da, db


class SumDim(Function):
    """y = Σ_d x; dx = dy expanded along d."""

    @staticmethod
    def forward(ctx, x, dim):
        ctx.shape, ctx.dim = x.shape, dim
        return x.sum(dim)

    @staticmethod
    def backward(ctx, dy):
        return dy.unsqueeze(ctx.dim).expand(ctx.shape), None


class MeanDim(Function):
    """y = Σ_d x / n; dx = dy / n expanded along d."""

    @staticmethod
    def forward(ctx, x, dim):
        ctx.shape, ctx.dim = x.shape, dim
        return x.mean(dim)

    @staticmethod
    def backward(ctx, dy):
        return (dy / ctx.shape[ctx.dim]).unsqueeze(ctx.dim).expand(ctx.shape), None


class MaxDim(Function):
    """y = max_d x; dx = dy at the place of the maximum, 0 elsewhere."""

    @staticmethod
    def forward(ctx, x, dim):
        y, place = x.max(dim)
        ctx.save_for_backward(place)
        ctx.shape, ctx.dim = x.shape, dim
        return y

    @staticmethod
    def backward(ctx, dy):
        (place,) = ctx.saved_tensors
        dx = dy.new_zeros(ctx.shape)
        return dx.scatter(ctx.dim, place.unsqueeze(ctx.dim), dy.unsqueeze(ctx.dim)), None


class LogSumExp(Function):
    """y = m + log Σ exp(x - m) over the last dim, m = max x; dx = softmax(x) · dy. No overflow."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        greatest = x.amax(-1, keepdim=True)
        return (greatest + (x - greatest).exp().sum(-1, keepdim=True).log()).squeeze(-1)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return x.softmax(-1) * dy.unsqueeze(-1)


def example_inputs():
    """Return what the doctor examines each Function on."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, generator=g)
    return {
        "ChannelBias": (torch.randn(2, 3, 4, 4, generator=g), torch.randn(3, generator=g)),
        "BroadcastMultiply": (torch.randn(3, 1, 4, generator=g), torch.randn(5, 1, generator=g)),
        "SumDim": (x, 1),
        "MeanDim": (x, 1),
        "MaxDim": (x, 1),
        "LogSumExp": (x,),
    }


if __name__ == "__main__":
    large = torch.tensor([1000.0, 1000.5], requires_grad=True)
    y = LogSumExp.apply(large)
    y.backward()
    print("log-sum-exp of 1000 and 1000.5:", y.item(), "gradient", large.grad.tolist())
    a, b = (t.requires_grad_() for t in example_inputs()["BroadcastMultiply"])
    BroadcastMultiply.apply(a, b).sum().backward()
    print("shapes of the gradients:", tuple(a.grad.shape), tuple(b.grad.shape))
    x = example_inputs()["MaxDim"][0].requires_grad_()
    MaxDim.apply(x, 1).sum().backward()
    print("ones at the maxima:", x.grad.sum(1).tolist())
