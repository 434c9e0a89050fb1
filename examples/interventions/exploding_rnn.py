"""An RNN whose gradient explodes, and the clip that saves it while it trains.

It learns to repeat the first element of a sequence at its end, so the gradient passes through 30 time
steps, and its initial weights are too large. Without a clip the loss is infinite after one step; with one it
learns.

    python examples/interventions/exploding_rnn.py            both trainings, one after the other
    python examples/interventions/exploding_rnn.py --by-hand  runs until you stop it; clip it yourself
"""

import sys

import torch
from torch import nn

import gradscope

STEPS, LENGTH = 400, 30


class Recalls(nn.Module):
    """Reads a sequence of noise whose first element is the answer."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(1, 32, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(32, 1)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(1.1 * torch.eye(32))

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def train(clip_at=None, name=None):
    """Return the losses, and the norm of all gradients before the optimizer's step, for each step."""
    torch.manual_seed(0)
    model = Recalls()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses, norms, failures = [], [], 0
    hub = None if name is None else "auto"
    with gradscope.attach(model, optimizer, name=name, hub=hub, quiet=name is None) as scope:
        for step in range(STEPS if name is None else 100 * STEPS):
            if step == clip_at:
                scope.clip("", max_norm=1.0, per="all", site="params")
            x = torch.cat([torch.randn(32, 1, 1), torch.zeros(32, LENGTH - 1, 1)], dim=1)
            loss = (model(x) - x[:, 0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())
            optimizer.step()
            losses.append(loss.item())
            scope.log(loss=loss)
            if not torch.isfinite(loss):
                if name is None:
                    break
                failures += 1
                if failures % 100 == 1:
                    print(f"step {step}: the loss is {loss.item()}, {failures} times; it starts again")
                torch.manual_seed(0)
                model.load_state_dict(Recalls().state_dict())
    return losses, norms


def main():
    if "--by-hand" in sys.argv:
        print("in another terminal:")
        print("  gradscope clip exploding '*' --max-norm 1 --per all --site params --keep")
        train(name="exploding")
        return
    plain, plain_norms = train()
    clipped, norms = train(clip_at=0)
    print(f"without a clip: step {len(plain) - 1}, loss {plain[-1]:.3g}, norm {max(plain_norms):.3g}")
    print(
        f"with a clip at norm 1: step {len(clipped) - 1}, loss {sum(clipped[-20:]) / 20:.3g}, ", end=""
    )
    print(f"norm that arrived up to {max(norms):.3g}")


if __name__ == "__main__":
    main()
