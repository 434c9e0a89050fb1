"""Hooks: looking at gradients and changing them, and taking the hooks away again."""

import torch
from torch import nn


def tensor_hooks():
    """Return the gradient of 4x, clamped to ±1 with noise of 0.01 on top, and without hooks."""
    x = torch.ones(3, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    handles = [
        x.register_hook(lambda g: g.clamp(-1, 1)),
        x.register_hook(lambda g: g + 0.01 * torch.randn(g.shape, generator=generator)),
        x.register_hook(
            lambda g: print(f"  mean {g.mean():.4f} std {g.std():.4f} largest {g.abs().max():.4f}")
        ),
    ]
    (4 * x).sum().backward()
    hooked = x.grad.clone()
    for handle in handles:
        handle.remove()
    x.grad = None
    (4 * x).sum().backward()
    return hooked.tolist(), x.grad.tolist()


def introspection():
    """Return shape, mean and deviation of activations and gradients of a 10-20-10-2 network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2))
    seen, handles = [], []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            handles.append(layer.register_forward_hook(_note(seen, name, "activation")))
            handles.append(layer.register_full_backward_hook(_note(seen, name, "gradient")))
    x = torch.randn(8, 10, requires_grad=True)
    model(x).square().mean().backward()
    for handle in handles:
        handle.remove()
    before = len(seen)
    model(x).square().mean().backward()
    return seen[:before], len(seen) - before


def _note(seen, name, kind):
    def hook(_module, _inputs, outputs):
        tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        seen.append((name, kind, tuple(tensor.shape), tensor.mean().item(), tensor.std().item()))

    return hook


def clipping(max_norm=1.0):
    """Return the norms of input gradients under a hook that clips them, the output times 1000."""
    torch.manual_seed(0)
    fc1, fc2 = nn.Linear(10, 20), nn.Linear(20, 2)
    norms = []

    def clip(_module, grad_input, _grad_output):
        clipped = tuple(
            g if g is None else g * min(1.0, max_norm / g.norm().item()) for g in grad_input
        )
        norms.extend(g.norm().item() for g in clipped if g is not None)
        return clipped

    handle = fc1.register_full_backward_hook(clip)
    x = torch.randn(4, 10, requires_grad=True)
    (1000 * fc2(fc1(x))).sum().backward()
    handle.remove()
    return norms


if __name__ == "__main__":
    print("tensor hooks:", tensor_hooks())
    rows, left = introspection()
    for row in rows:
        print("  {} {:10} {} mean {:+.4f} std {:.4f}".format(*row))
    print("rows after the hooks were removed:", left)
    print("clipped norms:", [round(norm, 4) for norm in clipping()])
