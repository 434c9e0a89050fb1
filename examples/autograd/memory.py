"""What is kept for backward, and how to keep less: masks, recomputation, nothing at all.

Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class ReluWithMask(Function):
    """y = max(x, 0), keeping one byte an element for backward instead of x itself."""

    @staticmethod
    def forward(ctx, x):
        mask = x > 0
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return dy * mask


class SelectiveProduct(Function):
    """y = a b, saving each factor only where the other one needs a gradient."""

    @staticmethod
    def forward(ctx, a, b):
        needs_a, needs_b = ctx.needs_input_grad
        ctx.save_for_backward(b if needs_a else None, a if needs_b else None)
        return a * b

    @staticmethod
    def backward(ctx, dy):
        b, a = ctx.saved_tensors
        da = dy * b if ctx.needs_input_grad[0] else None
        db = dy * a if ctx.needs_input_grad[1] else None
        return da, db


def two_layers(x, w):
    """Return tanh(tanh(x w) w): the function that is recomputed below."""
    return torch.tanh(torch.tanh(x @ w) @ w)


class Checkpointed(Function):
    """y = two_layers(x, w), keeping x and w only: backward runs forward once more."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        with torch.no_grad():
            return two_layers(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        needs = ctx.needs_input_grad
        with torch.enable_grad():
            again = [
                t.detach().requires_grad_(n) for t, n in zip(ctx.saved_tensors, needs, strict=True)
            ]
            y = two_layers(*again)
        found = iter(torch.autograd.grad(y, [t for t in again if t.requires_grad], dy))
        return tuple(next(found) if n else None for n in needs)


class Checkpoint(Function):
    """y = run(*inputs) for any `run`, keeping the inputs only; tensors that it closes over get none."""

    @staticmethod
    def forward(ctx, run, *inputs):
        ctx.run = run
        ctx.save_for_backward(*inputs)
        with torch.no_grad():
            return run(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        needs = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            again = [
                t.detach().requires_grad_(n) for t, n in zip(ctx.saved_tensors, needs, strict=True)
            ]
            y = ctx.run(*again)
        found = iter(torch.autograd.grad(y, [t for t in again if t.requires_grad], dy))
        return (None, *(next(found) if n else None for n in needs))


def checkpoint_sequential(layers, segments, x):
    """Return layers(x), a segment at a time: only what passes between segments is kept."""
    size = -(-len(layers) // segments)
    for start in range(0, len(layers), size):
        part = layers[start : start + size]
        names, values = zip(*part.named_parameters(), strict=True)

        def run(x, *values, part=part, names=names):
            return torch.func.functional_call(part, dict(zip(names, values, strict=True)), x)

        x = Checkpoint.apply(run, x, *values)
    return x


def saved_bytes(function, *inputs):
    """Return the bytes that autograd keeps for backward, without counting a storage twice."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function(*inputs)
    return sum(kept.values())


def example_inputs():
    """Return what the doctor examines each Function on."""
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(3, 4, generator=g), torch.randn(4, 4, generator=g)
    return {
        "ReluWithMask": (x,),
        "SelectiveProduct": (x, x + 1),
        "Checkpointed": (x, w),
        "Checkpoint": (two_layers, x, w),
    }


if __name__ == "__main__":
    x = torch.randn(64, 512, 16, 16, requires_grad=True)
    print("a sigmoid keeps, in MiB:", saved_bytes(torch.sigmoid, x) / 2**20)
    with torch.no_grad():
        print("under no_grad:", saved_bytes(torch.sigmoid, x) / 2**20)
    small = torch.randn(256, 256, requires_grad=True)
    print("a relu with a mask keeps, in KiB:", saved_bytes(ReluWithMask.apply, small) / 2**10)
    print("torch's relu keeps, in KiB:", saved_bytes(torch.relu, small) / 2**10)
    w = torch.randn(256, 256, requires_grad=True)
    print("two layers keep, in KiB:", saved_bytes(two_layers, small, w) / 2**10)
    print("checkpointed, in KiB:", saved_bytes(Checkpointed.apply, small, w) / 2**10)
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)])
    h = torch.randn(2, 8, requires_grad=True)
    wanted = [h, *layers.parameters()]
    whole = torch.autograd.grad(layers(h).sum(), wanted)
    parts = torch.autograd.grad(checkpoint_sequential(layers, 2, h).sum(), wanted)
    print(
        "checkpointed sequential, largest difference:",
        max((p - q).abs().max().item() for p, q in zip(whole, parts, strict=True)),
    )
