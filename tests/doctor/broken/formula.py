"""Wrong derivatives."""

import torch
from torch.autograd import Function


class WrongFormula(Function):
    """x³, differentiated as 3x."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.tensor([[0.5, -1.2, 2.0], [1.5, -0.3, 0.8]]),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 3 * x * dy


class ForgottenExponent(Function):
    """x², differentiated as x."""

    found_first = "wrong-gradient-scale"

    @staticmethod
    def example_inputs():
        return (torch.tensor([0.5, -1.2, 2.0, 3.0]),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return x * dy


class ForgottenExponentOfOneNumber(ForgottenExponent):
    """The same on a single number, where every error looks like a factor."""

    @staticmethod
    def example_inputs():
        return (torch.tensor(1.5),)


class WrongFormulaOfOneNumber(WrongFormula):
    """One number: no constant factor explains 3x for 3x²."""

    @staticmethod
    def example_inputs():
        return (torch.tensor(1.5),)


class ForgottenCount(Function):
    """The mean over dim 1, differentiated as the sum."""

    found_first = "wrong-gradient-scale"

    @staticmethod
    def example_inputs():
        return (torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),)

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.mean(1)

    @staticmethod
    def backward(ctx, dy):
        return dy.unsqueeze(1).expand(ctx.shape)


class FlippedSign(Function):
    """a - b, with the gradient of a sum."""

    found_first = "wrong-gradient-sign"

    @staticmethod
    def example_inputs():
        return torch.tensor([1.0, 2.0, 3.5]), torch.tensor([0.5, -1.0, 2.0])

    @staticmethod
    def forward(ctx, a, b):
        return a - b

    @staticmethod
    def backward(ctx, dy):
        return dy, dy


class MissingTerm(Function):
    """x sigmoid(x), without the derivative of the sigmoid."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.linspace(-2, 2, 8),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return torch.sigmoid(x) * dy


class WrongBelowZero(Function):
    """A leaky ReLU whose backward forgot the leak."""

    found_first = "wrong-gradient"
    evidence = "where x <"

    @staticmethod
    def example_inputs():
        return (torch.linspace(-2.1, 2, 9),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, x, 0.1 * x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x > 0)


class WrongInOneColumn(Function):
    """A gradient that was not written in the last column."""

    found_first = "wrong-gradient"
    evidence = "at index [3] of dim 1"

    @staticmethod
    def example_inputs():
        return (torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        dx = torch.zeros_like(x)
        dx[:, :-1] = (torch.cos(x) * dy)[:, :-1]
        return dx


class SoftmaxWithoutCoupling(Function):
    """Softmax differentiated element by element, as if it were a sigmoid."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),)

    @staticmethod
    def forward(ctx, x):
        y = torch.softmax(x, -1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy * y * (1 - y)


class IgnoresGradOutput(Function):
    """Returns the local derivative, not multiplied with what came."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.linspace(-2, 2, 8),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 2 * x


class SquareMissingTranspose(Function):
    """x @ w.T with a square w, differentiated without transposing."""

    found_first = "missing-transpose"

    @staticmethod
    def example_inputs():
        g = torch.Generator().manual_seed(2)
        return torch.randn(2, 3, generator=g), torch.randn(3, 3, generator=g)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = dy @ w.t() if ctx.needs_input_grad[0] else None
        dw = dy.t() @ x if ctx.needs_input_grad[1] else None
        return dx, dw


class LargeSquareMissingTranspose(SquareMissingTranspose):
    """The same at a size where no whole Jacobian is affordable: one row is enough."""

    @staticmethod
    def example_inputs():
        g = torch.Generator().manual_seed(2)
        return torch.randn(32, 64, generator=g), torch.randn(64, 64, generator=g)


class MissingTransposeByShape(Function):
    """The gradient of a weight, transposed."""

    found_first = "missing-transpose"

    @staticmethod
    def example_inputs():
        g = torch.Generator().manual_seed(2)
        return torch.randn(2, 3, generator=g), torch.randn(4, 3, generator=g)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return dy @ w, x.t() @ dy


class MissingGradient(Function):
    """None for the weight."""

    found_first = "missing-gradient"

    @staticmethod
    def example_inputs():
        g = torch.Generator().manual_seed(2)
        return torch.randn(2, 3, generator=g), torch.randn(3, generator=g)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        return x * w

    @staticmethod
    def backward(ctx, dy):
        (w,) = ctx.saved_tensors
        return dy * w, None


class ComplexWithoutConjugate(Function):
    """z², differentiated with 2z where PyTorch wants its conjugate."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.randn(4, dtype=torch.complex64, generator=torch.Generator().manual_seed(2)),)

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx, dy):
        (z,) = ctx.saved_tensors
        return 2 * z * dy


class WrongInOneElementOfMany(Function):
    """One element in four thousand: no sample of elements is likely to meet it."""

    found_first = "wrong-gradient"
    evidence = "[20, 77]"

    @staticmethod
    def example_inputs():
        return (torch.randn(32, 128, generator=torch.Generator().manual_seed(3)),)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        dx = torch.cos(x) * dy
        if dx.shape == (32, 128):
            dx[20, 77] = 5.0
        return dx


class ForgetsSecondOutput(Function):
    """Two outputs, and the gradient of one."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.linspace(-2, 2, 8),)

    @staticmethod
    def forward(ctx, x):
        return 2 * x + 1, torch.sin(x)

    @staticmethod
    def backward(ctx, da, db):
        return 2 * da


class SwappedGradients(Function):
    """The two gradients of a product in each other's place."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return torch.linspace(-2, 2, 8), torch.linspace(1, 3, 8)

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        da = a * dy if ctx.needs_input_grad[0] else None
        db = b * dy if ctx.needs_input_grad[1] else None
        return da, db


class SoftmaxAlongAnotherDim(Function):
    """A softmax over dim 0, differentiated over dim 1."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.randn(4, 4, generator=torch.Generator().manual_seed(1)),)

    @staticmethod
    def forward(ctx, x):
        y = torch.softmax(x, 0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return y * (dy - (dy * y).sum(1, keepdim=True))


class StraightThroughOfNegatives(Function):
    """A ReLU that passes every gradient, seen where its own slope is 0: no staircase, and not meant."""

    found_first = "wrong-gradient"

    @staticmethod
    def example_inputs():
        return (torch.linspace(-2, -1, 6),)

    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, dy):
        return dy.clone()
