"""Gradients by hand and by autograd: polynomials, a first Function, accumulation, tracking off.

Facts: y = 2x⁴ + x³ + 3x² + 5x + 1 at x = 2 is 63 with slope 93. mean(2(3x + 2)²) of [[1, 2, 3], [3,
2, 1]] is 140. x³ at 2 is 8 with slope 12. relu(a·b + a) at a = 1, b = 2 has slopes 3 and 1.
"""

import torch
from torch.autograd import Function


class Cube(Function):
    """y = x³, dx = 3x² · dy."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dy


def example_inputs():
    """Return what the doctor examines each Function on."""
    return {"Cube": (torch.randn(20, 20, dtype=torch.float64, requires_grad=True),)}


def one_step():
    """Return value and slope of a polynomial at 2."""
    x = torch.tensor(2.0, requires_grad=True)
    y = 2 * x**4 + x**3 + 3 * x**2 + 5 * x + 1
    y.backward()
    return y.item(), x.grad.item()


def several_steps():
    """Return value and gradient of mean(2(3x + 2)²)."""
    x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], requires_grad=True)
    y = 3 * x + 2
    out = (2 * y**2).mean()
    out.backward()
    return out.item(), x.grad.tolist()


def graph():
    """Return the gradients of relu(a·b + a) and the names of its nodes."""
    a, b = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    product = a * b
    total = product + a
    out = torch.relu(total)
    out.backward()
    return a.grad.item(), b.grad.item(), [t.grad_fn.name() for t in (product, total, out)]


def accumulation():
    """Return the gradient of a plane after one and after two backwards: the second adds."""
    w = torch.tensor([0.33, -1.5, 0.01], requires_grad=True)
    f = w[0] * 2.0 + w[1] * 3.0 + w[2]
    f.backward(retain_graph=True)
    once = w.grad.tolist()
    f.backward()
    return once, w.grad.tolist()


def tracking_off():
    """Return whether results made under no_grad, by detach, and after requires_grad_ are tracked."""
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        untracked = x * 2
    return (
        untracked.requires_grad,
        x.detach().requires_grad,
        torch.ones(2).requires_grad_().requires_grad,
    )


if __name__ == "__main__":
    print("one step:", one_step())
    print("several steps:", several_steps())
    print("graph:", graph())
    print("accumulation:", accumulation())
    print("tracking off:", tracking_off())
    x = torch.tensor(2.0, requires_grad=True)
    y = Cube.apply(x)
    y.backward()
    print("cube:", y.item(), x.grad.item())
    print(
        "gradcheck of the cube:",
        torch.autograd.gradcheck(Cube.apply, example_inputs()["Cube"], eps=1e-6, atol=1e-4),
    )
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    (x**2 + 2 * x + 1).sum().backward()
    print("x² + 2x + 1:", x.grad.tolist())
