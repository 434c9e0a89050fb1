"""Tensors that are written to and must not be, or kept where they must not be."""

import torch
from torch.autograd import Function


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


class WritesToInput(Function):
    """Doubles its input in place."""

    found_first = "forward-inplace-input"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        x.mul_(2)
        return x + 1

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


class WritesToInputAndSavesIt(Function):
    """Saves x, then changes it: backward sees the changed one."""

    found_first = "forward-inplace-input"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        y = x**2
        x += 1
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 2 * x * dy


class WritesToGradOutput(Function):
    """A ReLU that zeroes grad_output where x is negative."""

    found_first = "grad-output-modified"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        dy[x < 0] = 0
        return dy


class MultipliesGradOutput(Function):
    """An in-place product on grad_output."""

    found_first = "grad-output-modified"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, dy):
        return dy.mul_(3)


class WritesToSavedTensor(Function):
    """Computes the derivative inside the saved tensor."""

    found_first = "saved-tensor-modified"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        x.mul_(2)
        return x * dy


class KeepsTensorOnContext(Function):
    """An input as an attribute of ctx."""

    found_first = "saved-on-ctx"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        return (2 * ctx.x + 1) * dy


class KeepsListOnContext(Function):
    """Intermediates in a list on ctx."""

    found_first = "saved-on-ctx"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        s = torch.sigmoid(x)
        ctx.kept = [x, s]
        return x * s

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.kept
        return dy * (s + x * s * (1 - s))


class SavesNumber(Function):
    """An int among the saved tensors."""

    found_first = "non-tensor-saved"

    @staticmethod
    def example_inputs():
        return sample(3, 4), 3

    @staticmethod
    def forward(ctx, x, n):
        ctx.save_for_backward(x, n)
        return x**n

    @staticmethod
    def backward(ctx, dy):
        x, n = ctx.saved_tensors
        return n * x ** (n - 1) * dy, None


class SavesList(Function):
    """A list handed to save_for_backward."""

    found_first = "non-tensor-saved"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward([x])
        return x**2

    @staticmethod
    def backward(ctx, dy):
        ((x,),) = ctx.saved_tensors
        return 2 * x * dy


class ReadsSavedTensorsInForward(Function):
    """saved_tensors in forward, where it is empty."""

    found_first = "saved-tensors-in-forward"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        (saved,) = ctx.saved_tensors
        return saved**2

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 2 * x * dy


class UsesDataInBackward(Function):
    """.data instead of .detach(), where neither belongs."""

    found_first = "uses-data"

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
        return (2 * x.data + 1) * dy


class UsesDataInForward(Function):
    """.data in forward."""

    found_first = "uses-data"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        y = x.data * 3 + x.data
        ctx.factor = 4.0
        return y

    @staticmethod
    def backward(ctx, dy):
        return ctx.factor * dy


class ReturnsInput(Function):
    """The input itself, which becomes a read-only view."""

    found_first = "input-returned-as-is"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy


class SavesTwice(Function):
    """Two calls of save_for_backward: the second replaces the first."""

    found_first = "backward-raises"

    @staticmethod
    def example_inputs():
        return sample(3), sample(3)

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a)
        ctx.save_for_backward(b)
        return a * b + a

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        return dy * (b + 1), dy * a
