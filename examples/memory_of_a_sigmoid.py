"""What a sigmoid keeps: 32 MiB with gradients, nothing without.

The classic experiment prints `torch.cuda.memory_allocated()` after each line. Here gradscope reports the
memory of each layer, on a CPU and on a GPU alike. A sigmoid keeps its result for the backward pass,
64 * 512 * 16 * 16 numbers of four bytes; under `no_grad` it keeps nothing.

    python examples/memory_of_a_sigmoid.py
"""

import torch
from torch import nn

import gradscope
from gradscope.columns import MemoryTable, bytes_in_words

SHAPE = (64, 512, 16, 16)


def measured(device: str, *, has_gradients: bool) -> MemoryTable:
    """Return where the memory went in one step of nothing but a sigmoid."""
    model = nn.Sequential(nn.Sigmoid()).to(device)
    x = torch.randn(SHAPE, device=device, requires_grad=has_gradients)
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        if has_gradients:
            model(x).sum().backward()
        else:
            with torch.no_grad():
                model(x)
        scope.mark_step()
        return scope.memory()


def main() -> None:
    """Print both, on each device that there is."""
    size = torch.Size(SHAPE).numel() * torch.float32.itemsize
    print(f"one tensor of {SHAPE} in float32: {bytes_in_words(size)}")
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for has_gradients, words in ((True, "with gradients"), (False, "under no_grad")):
            table = measured(device, has_gradients=has_gradients)
            kept = table["0"].saved_bytes
            said = "not measured" if kept is None else bytes_in_words(kept)
            held = bytes_in_words(table.balance["total"])
            print(f"{device}, {words}: the sigmoid keeps {said}; {held} are held after the forward")


if __name__ == "__main__":
    main()
