"""A deep sigmoid network that does not learn: its gradients vanish. `--cured` replaces the sigmoids."""

import argparse

import torch
from torch import nn

import gradscope


def main() -> None:
    """Learn to tell whether two numbers have the same sign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cured", action="store_true", help="use ReLU in place of Sigmoid")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = nn.Sequential()
    for i in range(8):
        model.add_module(f"hidden{i}", nn.Linear(64 if i else 2, 64))
        model.add_module(f"act{i}", nn.ReLU() if options.cured else nn.Sigmoid())
    model.add_module("head", nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    scope = gradscope.attach(model, name="cured" if options.cured else "vanishing", every=10)

    for step in range(options.steps):
        points = torch.randn(256, 2)
        same_sign = (points[:, :1] * points[:, 1:] > 0).float()
        loss = nn.functional.binary_cross_entropy_with_logits(model(points), same_sign)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scope.log(loss=loss)
        if step % 200 == 0:
            print(f"step {step:4d}  loss {loss.item():.4f}")

    table = scope.latest()
    for layer in ("hidden0", "hidden3", "hidden7", "head"):
        rows = table[layer]
        change = rows["update"].norm / rows["param"].norm
        print(f"{layer:8} gradient norm {rows['param_grad'].norm:.1e}  update/weight {change:.1e}")
    for alert in scope.alerts:
        print(f"step {alert.step}: {alert.text}")


if __name__ == "__main__":
    main()
