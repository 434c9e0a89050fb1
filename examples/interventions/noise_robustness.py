"""Noise on a layer's input while it trains, and how much noise the network tolerates afterwards.

Two networks learn scikit-learn's digits; for one of them gradscope adds Gaussian noise to the input of the
first layer. Then both classify unseen pictures with increasing noise.

Needs scikit-learn: pip install 'gradscope[examples]'
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import gradscope

STEPS = 1_500
LEVELS = (0.0, 0.2, 0.4, 0.6)


def data():
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    return x[train], y[train], x[test], y[test]


def trained(std):
    """Return a network that was trained under noise of that deviation on its first layer's input."""
    torch.manual_seed(0)
    x, y, _, _ = data()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradscope.attach(model, optimizer, hub=None, quiet=True) as scope:
        scope.noise_activation("0", std=std, seed=1, site="input")
        for _ in range(STEPS):
            chosen = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return model


def accuracies(model):
    """Return the accuracy on unseen pictures at each level of noise."""
    _, _, x, y = data()
    generator = torch.Generator().manual_seed(2)
    found = []
    for level in LEVELS:
        noisy = x + level * torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            found.append((model(noisy).argmax(1) == y).float().mean().item())
    return found


def main():
    print("noise on the pictures   " + "".join(f"{level:>8}" for level in LEVELS))
    for std in (0.0, 0.4):
        shown = "".join(f"{value:8.3f}" for value in accuracies(trained(std)))
        print(f"trained under std {std:<4}  {shown}")


if __name__ == "__main__":
    main()
