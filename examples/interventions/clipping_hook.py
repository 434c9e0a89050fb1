"""The clipping hook of many tutorials, and the same without a hook of your own.

A full backward hook on `fc1` of a 10-20-10-2 network rescales each grad_input to a norm of at most 1,
the output times 1000. `scope.clip("fc1", max_norm=1.0, site="input")` does the same, can be set from
another terminal while the training runs, and leaves nothing behind.
"""

import torch
from torch import nn

import gradscope

MAX_NORM = 1.0


def network():
    torch.manual_seed(0)
    layers = {"fc1": nn.Linear(10, 20), "relu1": nn.ReLU(), "fc2": nn.Linear(20, 10),
              "relu2": nn.ReLU(), "fc3": nn.Linear(10, 2)}  # fmt: skip
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def input_gradient(model):
    """Return the gradient that leaves the network, the output times 1000."""
    x = torch.randn(8, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (model(x) * 1000).sum().backward()
    return x.grad


def clip_by_hook(_module, grad_input, _grad_output):
    return tuple(
        g if g is None or g.norm() <= MAX_NORM else g * (MAX_NORM / g.norm()) for g in grad_input
    )


def main():
    plain = input_gradient(network())
    hooked = network()
    hooked.fc1.register_full_backward_hook(clip_by_hook)
    by_hook = input_gradient(hooked)
    model = network()
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        scope.clip("fc1", max_norm=MAX_NORM, site="input")
        by_gradscope = input_gradient(model)
    print(f"norm without a clip  {plain.norm():.4f}")
    print(f"by a hook            {by_hook.norm():.4f}")
    print(f"by gradscope         {by_gradscope.norm():.4f}")
    print(f"greatest difference  {(by_hook - by_gradscope).abs().max():.1e}")


if __name__ == "__main__":
    main()
