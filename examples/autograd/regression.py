"""y = a x² + b x + c fitted to 100 noisy points by SGD, one sample a step.

Run, it draws the loss and the parameters over the epochs (`--save FILE.png`: a picture).
"""

import math

import torch


def fit(true=(2.0, -3.0, 1.0), epochs=300, lr=1e-4):
    """Return the mean loss and the parameters after each epoch."""
    g = torch.Generator().manual_seed(0)
    x = torch.linspace(-5, 5, 100)
    y = true[0] * x**2 + true[1] * x + true[2] + 0.5 * torch.randn(100, generator=g)
    features = torch.stack([x**2, x, torch.ones_like(x)], dim=1)
    w = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=lr)
    losses, parameters = [], []
    for _ in range(epochs):
        total = 0.0
        for i in torch.randperm(100, generator=g):
            optimizer.zero_grad()
            loss = (features[i] @ w - y[i]) ** 2
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / 100)
        parameters.append(w.tolist())
    return losses, parameters


def panels(losses, parameters):
    """Return the curves over the epochs; the loss as a logarithm, which shows its end as well."""
    epochs = range(1, len(losses) + 1)
    return {
        "log10 of the mean loss of an epoch": {"loss": (epochs, [math.log10(v) for v in losses])},
        "parameters": {
            f"{name}, true {true}": (epochs, values)
            for name, true, values in zip("abc", (2, -3, 1), zip(*parameters, strict=True), strict=True)
        },
    }


if __name__ == "__main__":
    from curves import show

    losses, parameters = fit()
    print("fitted:", [round(p, 3) for p in parameters[-1]], "true: [2, -3, 1]")
    print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    show(panels(losses, parameters))
