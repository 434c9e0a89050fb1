"""What backward returns: how many, of which shape and dtype, and whether it was asked for."""

import torch
from torch.autograd import Function


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


class TooFewGradients(Function):
    """One gradient for two inputs."""

    found_first = "wrong-gradient-count"

    @staticmethod
    def example_inputs():
        return sample(3, 4), sample(3, 4)

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, dy):
        _, b = ctx.saved_tensors
        return dy * b


class NoNoneForNumber(Function):
    """A number among the arguments, and no None for it."""

    found_first = "wrong-gradient-count"

    @staticmethod
    def example_inputs():
        return sample(3, 4), 0.5

    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x * alpha

    @staticmethod
    def backward(ctx, dy):
        return dy * ctx.alpha


class TooManyGradients(Function):
    """Two gradients for one input."""

    found_first = "wrong-gradient-count"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy, dy


class ScalarForTensor(Function):
    """The gradient summed to one number."""

    found_first = "gradient-shape-mismatch"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        return (2 * dy).sum()


class ReductionNotUndone(Function):
    """A sum over dim 1 whose gradient was not expanded back."""

    found_first = "gradient-shape-mismatch"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return x.sum(1)

    @staticmethod
    def backward(ctx, dy):
        return dy


class BroadcastNotReduced(Function):
    """A bias that was broadcast over rows: right only because autograd sums in silence."""

    found_first = "broadcast-not-reduced"

    @staticmethod
    def example_inputs():
        return sample(5, 3), sample(3)

    @staticmethod
    def forward(ctx, x, b):
        return 2 * x + b

    @staticmethod
    def backward(ctx, dy):
        return (2 * dy if ctx.needs_input_grad[0] else None), dy


class BroadcastNotReducedAndWrong(Function):
    """The same, divided by the number of rows on top."""

    found_first = "broadcast-not-reduced"
    severity = "error"

    @staticmethod
    def example_inputs():
        return sample(5, 3), sample(3)

    @staticmethod
    def forward(ctx, x, b):
        return 2 * x + b

    @staticmethod
    def backward(ctx, dy):
        return (2 * dy if ctx.needs_input_grad[0] else None), dy / dy.shape[0]


class HalfGradient(Function):
    """A gradient in half precision for an input in single."""

    found_first = "gradient-dtype-mismatch"

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
        return ((2 * x + 1) * dy).half()


class DoubleGradient(Function):
    """A gradient in double for an input in single: right, and twice the memory."""

    found_first = "gradient-dtype-mismatch"
    severity = "warning"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 3 * x + 1

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy.double()


class GradientElsewhere(Function):
    """A gradient on another device (here the one that holds no data)."""

    found_first = "gradient-device-mismatch"
    severity = "error"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 3 * x + 1

    @staticmethod
    def backward(ctx, dy):
        return torch.full(dy.shape, 3.0, device="meta")


class ComputesUnusedGradients(Function):
    """A linear map that never reads needs_input_grad."""

    found_first = "ignores-needs-input-grad"
    severity = "warning"

    @staticmethod
    def example_inputs():
        return sample(5, 3), sample(4, 3), sample(4)

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return x @ w.t() + b

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return dy @ w, dy.t() @ x, dy.sum(0)


class ComputesForTheTarget(Function):
    """A gradient for a target that requires none."""

    found_first = "ignores-needs-input-grad"

    @staticmethod
    def example_inputs():
        return sample(5, 3).requires_grad_(), sample(5, 3) * 0.5

    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        return ((x - t) ** 4).sum()

    @staticmethod
    def backward(ctx, dy):
        x, t = ctx.saved_tensors
        return 4 * (x - t) ** 3 * dy, -4 * (x - t) ** 3 * dy


class FailsWithoutBias(Function):
    """An optional bias that backward takes for granted."""

    found_first = "wrong-gradient-count"

    @staticmethod
    def example_inputs():
        return sample(5, 3), sample(3), sample(3)

    @staticmethod
    def forward(ctx, x, w, b=None):
        ctx.save_for_backward(x, w)
        y = x * w
        return y if b is None else y + b

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = dy * w if ctx.needs_input_grad[0] else None
        dw = (dy * x).sum(0) if ctx.needs_input_grad[1] else None
        return dx, dw, dy.sum(0)


class NeedsAllOrNothing(Function):
    """Looks at the first need only: with x frozen, w gets nothing."""

    found_first = "missing-gradient"

    @staticmethod
    def example_inputs():
        return sample(5, 3), sample(5, 3)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w * w

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None
        return dy * w * w, (2 * x * w * dy if ctx.needs_input_grad[1] else None)
