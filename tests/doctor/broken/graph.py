"""Second derivatives that are silently wrong, or raise."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6))


class SavesClone(Function):
    """A clone of the input, which carries no graph inside forward."""

    found_first = "graph-broken"
    evidence = "saved tensor 0 of SavesClone"
    severity = "error"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.clone())
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return (2 * x + 1) * dy


class SavesIntermediate(Function):
    """Backward uses the input and an intermediate of forward: a part of the graph is intact."""

    found_first = "graph-broken"
    evidence = "saved tensor 1 of SavesIntermediate"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s + x

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved_tensors
        return dy * (s + x * s * (1 - s) + 1)


class DetachesInBackward(Function):
    """detach() on a saved tensor."""

    found_first = "graph-broken"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return (2 * x.detach() + 1) * dy


class NoGradInBackward(Function):
    """no_grad around the formula: the link to grad_output goes too."""

    found_first = "graph-broken"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return (2 * x + 1) * dy


class ItemInBackward(Function):
    """A number taken out of the graph."""

    found_first = "graph-broken"

    @staticmethod
    def example_inputs():
        return (sample(4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sum()

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * x.sum().item() + (dy * x).sum()


class NumpyInBackward(Function):
    """NumPy raises as soon as a graph is requested."""

    found_first = "not-twice-differentiable"
    severity = "warning"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return torch.from_numpy((2 * x.numpy() + 1) * dy.numpy())


class DeclaredOnce(Function):
    """The same, declared: a hint."""

    found_first = "not-twice-differentiable"
    severity = "hint"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return torch.from_numpy((2 * x.numpy() + 1) * dy.numpy())


class _WrongSlope(Function):
    """dy · (2x + 1), with a wrong derivative in x."""

    @staticmethod
    def forward(ctx, x, dy):
        ctx.save_for_backward(x, dy)
        return (2 * x + 1) * dy

    @staticmethod
    def backward(ctx, ddx):
        x, dy = ctx.saved_tensors
        return 5 * dy * ddx, (2 * x + 1) * ddx


class WrongSecondDerivative(Function):
    """A double backward written by hand, and wrong."""

    found_first = "wrong-second-gradient"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return _WrongSlope.apply(x, dy)
