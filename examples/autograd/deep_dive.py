"""A deep dive into autograd, as a notebook would go through it, with gradscope's tools where they fit.

The graph, activations and their derivatives, hooks against `gradscope.attach`, custom against built-in,
the usual mistakes, and checkpointing as a Function. `activations.py` draws the curves.
"""

# %% Gradients of a polynomial, and the graph behind them
import torch
from activations import HardSwish, Mish, Relu, Swish
from first_steps import graph
from memory import Checkpoint, two_layers
from torch import nn
from torch.autograd import Function
from torch.nn import functional

import gradscope
from hooks import clipping, introspection

x = torch.tensor([2.0, 3.0], requires_grad=True)
(x**2 + 2 * x + 1).sum().backward()
print("x² + 2x + 1 at [2, 3]:", x.grad.tolist())
da, db, names = graph()
print("relu(a·b + a): de/da =", da, " de/db =", db, " nodes:", *names)

# %% Swish, Mish and Hard Swish with their derivatives
x = torch.randn(20, 20, dtype=torch.float64, requires_grad=True)
for function in (Swish, Mish, HardSwish):
    is_right = torch.autograd.gradcheck(function.apply, (x,), eps=1e-6, atol=1e-4, rtol=1e-3)
    report = gradscope.examine(function, x)
    print(
        f"{function.__name__}: gradcheck {is_right}, the doctor: {', '.join(report.codes) or 'nothing'}"
    )

# %% Looking inside with hooks, and without: the same numbers
rows, left = introspection()
for name, kind, shape, mean, std in rows:
    print(f"hook on {name}: {kind:10} {shape} mean {mean:+.4f} std {std:.4f}")
print("calls after the hooks were removed:", left)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2))
with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
    batch = torch.randn(8, 10, requires_grad=True)
    model(batch).square().mean().backward()
    scope.mark_step()
    for name in ("0", "2", "4"):
        row = scope.latest()[name]
        print(f"scope on {name}: activation mean {row['out'].mean:+.4f} std {row['out'].std:.4f}, "
              f"gradient mean {row['grad'].mean:+.4f} std {row['grad'].std:.4f}")  # fmt: skip

# %% A hook that clips, and an intervention that does
print("norms under the hook, the output times 1000:", [round(norm, 4) for norm in clipping()])
torch.manual_seed(0)
model = nn.Sequential()
model.add_module("fc1", nn.Linear(10, 20))
model.add_module("fc2", nn.Linear(20, 2))
with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
    scope.clip("fc1", max_norm=1.0, site="input")
    batch = torch.randn(4, 10, requires_grad=True)
    (1000 * model(batch)).sum().backward()
    print("norm under scope.clip:", round(batch.grad.norm().item(), 4))

# %% Custom against built-in, 1000 × 1000
x = torch.randn(1000, 1000, requires_grad=True)
pairs = {"ReLU": (Relu, torch.relu), "Swish": (Swish, functional.silu), "Mish": (Mish, functional.mish)}
for name, (ours, theirs) in pairs.items():
    print(f"{name}: {gradscope.time_function(ours, theirs, x, repeats=3)}")


# %% The usual mistakes, and what the doctor says of each
class KeepsOnCtx(Function):
    """2x² with x as an attribute of ctx."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return 2 * x**2

    @staticmethod
    def backward(ctx, dy):
        return 4 * ctx.x * dy


class WritesToInput(Function):
    """2x, in place."""

    @staticmethod
    def forward(ctx, x):
        return x.mul_(2).clone()

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


class ForgetsAnInput(Function):
    """a² b without a gradient for b."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a**2 * b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        return 2 * a * b * dy, None


for function, count in ((KeepsOnCtx, 1), (WritesToInput, 1), (ForgetsAnInput, 2)):
    first = gradscope.examine(function, *torch.randn(count, 3, 4)).findings[0]
    print(f"{function.__name__}: {first.code} at {first.where.split('/')[-1]}")

# %% Checkpointing as a Function: forward once more instead of its activations
inputs = [torch.randn(3, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)]
whole = torch.autograd.grad(two_layers(*inputs).sum(), inputs)
again = torch.autograd.grad(Checkpoint.apply(two_layers, *inputs).sum(), inputs)
differences = [(p - q).abs().max().item() for p, q in zip(whole, again, strict=True)]
print("checkpointed, largest difference:", max(differences))
