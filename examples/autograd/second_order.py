"""Second derivatives: a backward that can itself be differentiated, Hessians and their products."""

import torch
from torch.autograd import Function


class Square(Function):
    """y = x², dx = 2x · dy. Backward is made of differentiable operations, so a second one works."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 2 * x * dy


def hessian(function, x):
    """Return the matrix of second derivatives, one backward a row."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    return torch.stack([torch.autograd.grad(g, x, retain_graph=True)[0] for g in gradient])


def hessian_vector_product(function, x, v):
    """Return H v by two backwards and no matrix (Pearlmutter, 1994)."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    return torch.autograd.grad(gradient, x, v)[0]


def example_inputs():
    """Return what the doctor examines each Function on."""
    return {"Square": (torch.tensor([0.5, -1.0, 3.0]),)}


if __name__ == "__main__":
    x = torch.tensor(3.0, requires_grad=True)
    (first,) = torch.autograd.grad(Square.apply(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    print("x² at 3, first and second derivative:", first.item(), second.item())
    point, direction = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])

    def f(v):
        """Return v₀² v₁ + v₁³."""
        return Square.apply(v[0]) * v[1] + v[1] ** 3

    matrix = hessian(f, point)
    print("Hessian of v₀² v₁ + v₁³ at (1, 2):", matrix.tolist())
    print(
        "times (1, -1):",
        hessian_vector_product(f, point, direction).tolist(),
        "=",
        (matrix @ direction).tolist(),
    )
