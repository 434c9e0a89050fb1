"""The basics of autograd, as a notebook would go through them: run it cell by cell, or as a whole.

By hand first, by autograd then, and by `gradscope.examine`, which compares the two for you.
"""

# %% One step: y = 2x⁴ + x³ + 3x² + 5x + 1 at x = 2
import torch
from first_steps import Cube, several_steps, tracking_off
from torch.autograd import Function

import gradscope

x = torch.tensor(2.0, requires_grad=True)
y = 2 * x**4 + x**3 + 3 * x**2 + 5 * x + 1
y.backward()
print("y =", y.item(), " dy/dx =", x.grad.item(), " by hand:", 8 * 2**3 + 3 * 2**2 + 6 * 2 + 5)

# %% The same function in the doctor's hands: one element by central differences, at the same point
report = gradscope.examine(
    lambda x: 2 * x**4 + x**3 + 3 * x**2 + 5 * x + 1, torch.tensor([2.0]), name="polynomial"
)
print("the doctor at 2:", report.steps[3].numbers["x"].split(";")[0])

# %% Several steps: z = 2(3x + 2)², out = mean(z)
out, gradient = several_steps()
print("out =", out, " gradient =", gradient)

# %% Tracking off: no_grad, detach, requires_grad_
print("tracked under no_grad, after detach, after requires_grad_:", *tracking_off())

# %% A Function of one's own: x³, and whether its backward is right
x = torch.tensor(2.0, requires_grad=True)
y = Cube.apply(x)
y.backward()
print("x³ at 2:", y.item(), " slope:", x.grad.item())
report = gradscope.examine(Cube, torch.randn(20, 20, dtype=torch.float64, requires_grad=True))
print("the cube:", *report.codes, "- gradcheck", report.steps[4].numbers["gradcheck"])


# %% A Function with a mistake: the exponent was forgotten
class WrongCube(Function):
    """x³ with the slope x²."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return x**2 * dy


found = gradscope.examine(WrongCube, torch.randn(4, 5)).findings[0]
print("a wrong cube:", found.code, "-", found.message)
