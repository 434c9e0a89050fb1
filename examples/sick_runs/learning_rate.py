"""A training with a learning rate ten times too high. `--cured` divides it by ten."""

import argparse

import torch
from torch import nn

import gradscope


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.reduce = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.reduce(self.act(self.expand(self.norm(x))))


def main() -> None:
    """Learn the sign of the product of the first three of 32 numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cured", action="store_true", help="use a learning rate of 0.003, not 0.03")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("embed", nn.Linear(32, 64))
    for i in range(3):
        model.add_module(f"block{i}", Block(64))
    model.add_module("head", nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3 if options.cured else 3e-2)

    scope = gradscope.attach(model, name="cured" if options.cured else "too-fast", every=10)

    for step in range(options.steps):
        inputs = torch.randn(128, 32)
        target = (inputs[:, :3].prod(dim=1, keepdim=True) > 0).float()
        loss = nn.functional.binary_cross_entropy_with_logits(model(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scope.log(loss=loss)
        if step % 250 == 0 or step == options.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.4f}")

    for alert in scope.alerts:
        print(f"step {alert.step}: {alert.text}")


if __name__ == "__main__":
    main()
