"""What raises, is not finite, is random, or depends on layout and size."""

import torch
from torch.autograd import Function


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


class ForwardRaises(Function):
    """Two sizes that do not match."""

    found_first = "forward-raises"
    evidence = "sizes of tensors must match"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return x + torch.ones(5)

    @staticmethod
    def backward(ctx, dy):
        return dy


class BackwardRaises(Function):
    """Misspells saved_tensors."""

    found_first = "backward-raises"
    evidence = "no attribute saved_tensors"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensor
        return (2 * x + 1) * dy


class UndefinedGradient(Function):
    """Turns off materialised gradients and does not test for None."""

    found_first = "backward-raises"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return 2 * x + 1, 3 * x + 1

    @staticmethod
    def backward(ctx, da, db):
        return 2 * da + 3 * db


class ForwardNotFinite(Function):
    """An exponential that overflows."""

    found_first = "forward-nonfinite"

    @staticmethod
    def example_inputs():
        return (torch.tensor([1.0, 200.0]),)

    @staticmethod
    def forward(ctx, x):
        y = torch.exp(x) / (1 + torch.exp(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy * y * (1 - y)


class GradientNotFinite(Function):
    """A root whose slope at 0 is infinite."""

    found_first = "gradient-nonfinite"

    @staticmethod
    def example_inputs():
        return (torch.tensor([0.0, 1.0, 4.0]),)

    @staticmethod
    def forward(ctx, x):
        y = x.abs().sqrt()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy / (2 * y)


class DropsAtRandom(Function):
    """A dropout that draws from the global state."""

    found_first = "nondeterministic"

    @staticmethod
    def example_inputs():
        return (sample(8, 8),)

    @staticmethod
    def forward(ctx, x):
        mask = (torch.rand_like(x) > 0.5).to(x.dtype)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return dy * mask


class ViewsGradient(Function):
    """.view on a gradient that need not be contiguous."""

    found_first = "fails-on-noncontiguous"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return (3 * x + 1).reshape(-1)

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy.view(-1).as_strided((dy.numel(),), (1,), 0).reshape(dy.numel() // 4, 4)


class ViewsInput(Function):
    """.view on an input."""

    found_first = "fails-on-noncontiguous"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return 3 * x.view(x.numel()) + 1

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy.reshape(ctx.shape)


class RefusesStrideZero(Function):
    """Foreign code that cannot take a stride of 0."""

    found_first = "fails-on-expanded-gradient"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 3 * x + 1

    @staticmethod
    def backward(ctx, dy):
        if 0 in dy.stride():
            raise ValueError("strides must be positive")
        return 3 * dy


class FailsOnEmpty(Function):
    """A -1 in a shape, which no elements cannot resolve."""

    found_first = "fails-on-empty"

    @staticmethod
    def example_inputs():
        return (sample(3, 2, 4),)

    @staticmethod
    def forward(ctx, x):
        return 3 * x.reshape(x.shape[0], -1) + 1

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy.reshape(dy.shape[0], 2, 4)


class SqueezesOneRow(Function):
    """squeeze() loses the batch of 1."""

    found_first = "backward-raises"

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
        return ((2 * x + 1) * dy).squeeze(0)


class TooLarge(Function):
    """A slope of ten million."""

    found_first = "gradient-too-large"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 1e7 * x + 1

    @staticmethod
    def backward(ctx, dy):
        return 1e7 * dy


class TooSmall(Function):
    """A slope of one in a hundred million."""

    found_first = "gradient-too-small"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 1e-8 * x + 1

    @staticmethod
    def backward(ctx, dy):
        return 1e-8 * dy


class PoorDifferences(Function):
    """One-sided differences with a step of 0.1."""

    found_first = "approximate-poor"
    is_approximate = True

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (torch.sin(x + 0.1) - torch.sin(x)) / 0.1


class NoticeableDifferences(Function):
    """One-sided differences with a step of 0.01."""

    found_first = "approximate-noticeable"
    is_approximate = True

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (torch.sin(x + 0.01) - torch.sin(x)) / 0.01


class WrapsAdd(Function):
    """A sum."""

    found_first = "reimplements-builtin"

    @staticmethod
    def example_inputs():
        return sample(3, 4), sample(3, 4)

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, dy):
        return dy, dy


class WrapsRelu(Function):
    """A ReLU."""

    found_first = "reimplements-builtin"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.relu(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x > 0)


class WrapsGelu(Function):
    """A GELU, differentiated by autograd inside."""

    found_first = "reimplements-builtin"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.nn.functional.gelu(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        root = (2 * torch.pi) ** -0.5
        return dy * (0.5 * (1 + torch.erf(x * 2**-0.5)) + x * root * torch.exp(-x * x / 2))


class DetachedOutput(Function):
    """An output that is declared to have no gradient."""

    found_first = "missing-gradient"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        y = x**2 + x
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        return dy
