"""Activations with their derivatives. σ is the sigmoid, and σ' = σ(1 - σ).

Swish: Ramachandran et al., "Searching for activation functions", 2017. Mish: Misra, 2019. Hard Swish:
Howard et al., "Searching for MobileNetV3", 2019.
Run, it draws the curves too (`--save FILE.png`: a picture).
"""

import warnings

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional


class Sigmoid(Function):
    """y = σ(x), dx = y(1 - y) · dy, from the saved output."""

    @staticmethod
    def forward(ctx, x):
        y = 1 / (1 + torch.exp(-x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return y * (1 - y) * dy


class Relu(Function):
    """y = max(x, 0), dx = dy where x > 0."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x > 0)


class Tanh(Function):
    """y = tanh(x), dx = (1 - y²) · dy."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return (1 - y**2) * dy


class Swish(Function):
    """y = x σ(x), dx = (σ + x σ(1 - σ)) · dy."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return (s + x * s * (1 - s)) * dy


class Mish(Function):
    """y = x t with t = tanh(softplus(x)), dx = (t + x (1 - t²) σ(x)) · dy."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.tanh(functional.softplus(x))

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        t = torch.tanh(functional.softplus(x))
        return (t + x * (1 - t**2) * torch.sigmoid(x)) * dy


class HardSwish(Function):
    """y = x · relu6(x + 3) / 6; the slope is 0 up to -3, (2x + 3) / 6 between, 1 from 3 on."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * (x + 3).clamp(0, 6) / 6

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        inner = torch.where(x >= 3, torch.ones_like(x), (2 * x + 3) / 6)
        return torch.where(x <= -3, torch.zeros_like(x), inner) * dy


class LearnableSwish(Function):
    """y = x σ(βx), dx = (σ + βx σ') · dy, dβ = Σ x² σ' · dy. x of any shape, β of one element."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x, beta)
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def backward(ctx, dy):
        x, beta = ctx.saved_tensors
        s = torch.sigmoid(beta * x)
        slope = s * (1 - s)
        dx = (s + beta * x * slope) * dy if ctx.needs_input_grad[0] else None
        dbeta = (x**2 * slope * dy).sum().reshape(beta.shape) if ctx.needs_input_grad[1] else None
        return dx, dbeta


class SigmoidLayer(nn.Module):
    """The sigmoid as a layer: a Function is called by `apply`, inside of a forward."""

    def forward(self, x):
        """Return σ(x)."""
        return Sigmoid.apply(x)


def gradchecks_of_the_sigmoid():
    """Return what gradcheck says in single precision, where its differences drown, and in double."""
    verdicts = {}
    for dtype in (torch.float32, torch.float64):
        x = torch.linspace(-2, 2, 16, dtype=dtype, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of single precision itself
            is_right = torch.autograd.gradcheck(Sigmoid.apply, (x,), eps=1e-4, raise_exception=False)
        verdicts[str(dtype).removeprefix("torch.")] = "passed" if is_right else "failed"
    return verdicts


def example_inputs():
    """Return what the doctor examines each Function on."""
    x = torch.linspace(-4.3, 4.1, 12).reshape(3, 4)
    names = ("Sigmoid", "Relu", "Tanh", "Swish", "Mish", "HardSwish")
    return dict.fromkeys(names, (x,)) | {"LearnableSwish": (x, torch.tensor([1.5]))}


def panels():
    """Return the curves of ReLU, Swish, Mish, GELU and tanh, and of their derivatives."""
    called = {f.__name__: f.apply for f in (Relu, Swish, Mish)}
    called |= {"GELU": functional.gelu, "Tanh": Tanh.apply}
    values, slopes = {}, {}
    for name, function in called.items():
        x = torch.linspace(-5, 5, 201).requires_grad_()
        y = function(x)
        y.sum().backward()
        values[name] = x.tolist(), y.tolist()
        slopes[name] = x.tolist(), x.grad.tolist()
    return {"activations": values, "their derivatives": slopes}


if __name__ == "__main__":
    from curves import show

    points = torch.tensor([-3.5, -1.0, 0.5, 2.0, 3.5])
    for function in (Sigmoid, Relu, Tanh, Swish, Mish, HardSwish):
        x = points.clone().requires_grad_()
        y = function.apply(x)
        y.sum().backward()
        print(f"{function.__name__:10} value", [round(v, 4) for v in y.tolist()])
        print(f"{'':10} slope", [round(v, 4) for v in x.grad.tolist()])
    one = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    print(
        "jacobian of the sigmoid at 0.5:", torch.autograd.functional.jacobian(Sigmoid.apply, one).item()
    )
    print(
        "hessian of it:",
        torch.autograd.functional.hessian(lambda v: Sigmoid.apply(v).sum(), one).item(),
    )
    print("gradcheck of the sigmoid, eps 1e-4:", gradchecks_of_the_sigmoid())
    several = torch.randn(20, 20, dtype=torch.float64, requires_grad=True)
    for function in (Swish, Mish, HardSwish):
        is_right = torch.autograd.gradcheck(function.apply, (several,), eps=1e-6, atol=1e-4, rtol=1e-3)
        print(f"gradcheck of {function.__name__} in double:", is_right)
    show(panels())
