"""The smallest training that can be watched: start it, then run `gradscope` in a second terminal."""

import torch
from torch import nn

import gradscope


def main(steps: int = 50_000) -> None:
    """Learn to tell whether two numbers have the same sign."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("hidden1", nn.Linear(2, 64))
    model.add_module("relu1", nn.ReLU())
    model.add_module("hidden2", nn.Linear(64, 64))
    model.add_module("relu2", nn.ReLU())
    model.add_module("head", nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    scope = gradscope.attach(model)

    for step in range(steps):
        points = torch.randn(256, 2)
        same_sign = (points[:, :1] * points[:, 1:] > 0).float()
        loss = nn.functional.binary_cross_entropy_with_logits(model(points), same_sign)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scope.log(loss=loss)
        if step % 5000 == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
