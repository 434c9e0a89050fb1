"""Faults that show only in a part: of the domain, of the arguments, of the runs, or of the source."""

import torch
from torch.autograd import Function


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


class SquareProductWithoutTranspose(Function):
    """x @ w at a size where no Jacobian is affordable, nor does one row show the fault: x @ dy."""

    found_first = "missing-transpose"
    evidence = "the gradient of w is right once the saved x is transposed"

    @staticmethod
    def example_inputs():
        return sample(128, 128), sample(128, 128)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = dy @ w.t() if ctx.needs_input_grad[0] else None
        dw = x @ dy if ctx.needs_input_grad[1] else None
        return dx, dw


class FusedReluWithoutTranspose(Function):
    """The same with a ReLU after the product."""

    found_first = "missing-transpose"
    evidence = "the gradient of x is right once the saved w is transposed"

    @staticmethod
    def example_inputs():
        return sample(32, 64), sample(64, 64)

    @staticmethod
    def forward(ctx, x, w):
        y = (x @ w).clamp(min=0)
        ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, y = ctx.saved_tensors
        d = dy * (y > 0)
        dx = d @ w if ctx.needs_input_grad[0] else None
        dw = x.t() @ d if ctx.needs_input_grad[1] else None
        return dx, dw


class RaisesWithoutTranspose(Function):
    """Shapes that are not square: backward raises where both transposes are missing."""

    found_first = "missing-transpose"
    evidence = "once the saved x and the saved w are transposed"

    @staticmethod
    def example_inputs():
        return sample(3, 5), sample(5, 4)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return dy @ w, x @ dy


class TransposedAttention(Function):
    """dv = p dy for pᵀ dy, in a batch of square matrices."""

    found_first = "missing-transpose"

    @staticmethod
    def example_inputs():
        return sample(2, 12, 12), sample(2, 12, 12)

    @staticmethod
    def forward(ctx, s, v):
        p = s.softmax(-1)
        ctx.save_for_backward(p, v)
        return p @ v

    @staticmethod
    def backward(ctx, dy):
        p, v = ctx.saved_tensors
        ds = dv = None
        if ctx.needs_input_grad[0]:
            dp = dy @ v.mT
            ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        if ctx.needs_input_grad[1]:
            dv = p @ dy
        return ds, dv


class InfiniteSecondDerivative(Function):
    """A root in backward at 0: finite itself, with an infinite slope."""

    found_first = "wrong-second-gradient"
    evidence = "elements are NaN or infinite"

    @staticmethod
    def example_inputs():
        return (torch.tensor([-1.0, 0.5, 2.0, -0.3]),)

    @staticmethod
    def forward(ctx, x):
        y = x.clamp(min=0) ** 1.5 + x
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return (1.5 * (x * (x > 0)).sqrt() + 1) * dy


class WritesWhatIsThere(Function):
    """An in-place ReLU on an input that is positive: nothing changes but the version."""

    found_first = "forward-inplace-input"

    @staticmethod
    def example_inputs():
        return (sample(3, 4).abs() + 0.1,)

    @staticmethod
    def forward(ctx, x):
        y = x.relu_()
        ctx.save_for_backward(x)
        return y * 2 + 1

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


class MasksGradOutputThatIsPositive(Function):
    """An in-place product with ones."""

    found_first = "grad-output-modified"

    @staticmethod
    def example_inputs():
        return (sample(3, 4).abs() + 0.1,)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x > 0)
        return x.clamp(min=0) + 1

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return dy.mul_(mask)


class WrongWithoutTheMiddleOption(Function):
    """y = s (x + b): right with both; without b, with s, ds forgets that b was 0."""

    found_first = "wrong-gradient"
    evidence = "b left out"

    @staticmethod
    def example_inputs():
        return sample(3, 4), sample(4), torch.tensor([1.5])

    @staticmethod
    def forward(ctx, x, b=None, s=None):
        ctx.has_b = b is not None
        y = x if b is None else x + b
        ctx.save_for_backward(y, s)
        return y * s if s is not None else y + 0

    @staticmethod
    def backward(ctx, dy):
        y, s = ctx.saved_tensors
        needs = (*ctx.needs_input_grad, False, False)
        d = dy * s if s is not None else dy
        db = d.sum(0) if needs[1] else None
        ds = None
        if needs[2]:
            ds = ((y if ctx.has_b else y - 1) * dy).sum().reshape(1)
        return (d if needs[0] else None, db, ds)[: len(ctx.needs_input_grad)]


class HardCodedDevice(Function):
    """Right where it was written."""

    found_first = "gradient-device-mismatch"
    evidence = 'device="cpu"'
    severity = "warning"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        return 3 * x + torch.ones(4, device="cpu", dtype=x.dtype)

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy


class WrongTangent(Function):
    """A right backward, and a jvp that forgot a term."""

    found_first = "wrong-gradient"
    evidence = "jvp fails gradcheck in forward mode"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(x):
        return x**2 + x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return (2 * x + 1) * dy

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 2 * x * tangent


class KeepsOutputOnContext(Function):
    """The output on ctx: a cycle that only the garbage collector frees."""

    found_first = "saved-on-ctx"
    evidence = "48 bytes outlive the output, and are freed only by the garbage collector"

    @staticmethod
    def example_inputs():
        return (sample(3, 4),)

    @staticmethod
    def forward(ctx, x):
        y = torch.exp(x) + 1
        ctx.y = y
        return y

    @staticmethod
    def backward(ctx, dy):
        return dy * (ctx.y - 1)


class WritesToATargetThatMatters(Function):
    """A target without gradient, written to: the loss depends on its values."""

    found_first = "forward-inplace-input"
    severity = "error"

    @staticmethod
    def example_inputs():
        return sample(3, 4).requires_grad_(), sample(3, 4) + 1

    @staticmethod
    def forward(ctx, x, t):
        t.clamp_(0.2, 0.8)
        ctx.save_for_backward(x, t.clone())
        return ((x - t) ** 4).sum()

    @staticmethod
    def backward(ctx, dy):
        x, t = ctx.saved_tensors
        return 4 * (x - t) ** 3 * dy, None


class QuantiserWithWrongStep(Function):
    """A learnt step whose gradient forgot the clipped elements: no convention explains it."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return sample(3, 4), torch.tensor([0.2])

    @staticmethod
    def forward(ctx, x, s):
        ctx.save_for_backward(x, s)
        return torch.round((x / s).clamp(-4, 3)) * s

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved_tensors
        z = x / s
        inside = (z > -4) & (z < 3)
        dx = dy * inside if ctx.needs_input_grad[0] else None
        ds = ((torch.round(z) - z) * inside * dy).sum().reshape(1) if ctx.needs_input_grad[1] else None
        return dx, ds
