"""A training whose loss becomes NaN after one blank input. `--cured` repairs the layer at fault."""

import argparse

import torch
from torch import nn

import gradscope


class Standardize(nn.Module):
    """Shift and scale each row to mean 0 and deviation 1."""

    def __init__(self, *, is_cured: bool) -> None:
        super().__init__()
        self.is_cured = is_cured

    def forward(self, x):
        centered = x - x.mean(dim=1, keepdim=True)
        variance = centered.square().mean(dim=1, keepdim=True)
        if self.is_cured:
            return centered / torch.sqrt(variance + 1e-5)
        return centered / (torch.sqrt(variance) + 1e-5)


def main() -> None:
    """Learn a sum of squares. From step 300 on, one row in each batch is blank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cured", action="store_true", help="add the epsilon inside the square root")
    parser.add_argument("--skip", action="store_true", help="skip the steps with a nonfinite gradient")
    parser.add_argument(
        "--every", type=int, help="observe every N steps; without it as often as the budget allows"
    )
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("embed", nn.Linear(16, 32, bias=False))
    model.add_module("standardize", Standardize(is_cured=options.cured))
    model.add_module("hidden", nn.Linear(32, 64))
    model.add_module("relu", nn.ReLU())
    model.add_module("head", nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    scope = gradscope.attach(model, name="cured" if options.cured else "nan", every=options.every)
    if options.skip:
        scope.rule("nonfinite", action="skip_step")

    for step in range(options.steps):
        inputs = torch.randn(64, 16)
        if step >= 300 and step % 50 == 0:
            inputs[0] = 0.0  # a blank input
        target = inputs.square().sum(dim=1, keepdim=True)
        loss = nn.functional.mse_loss(model(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scope.log(loss=loss)
        if step % 100 == 0 or step == 301:
            print(f"step {step:4d}  loss {loss.item():.3f}")

    for alert in scope.alerts:
        print(f"step {alert.step}: {alert.text}")


if __name__ == "__main__":
    main()
