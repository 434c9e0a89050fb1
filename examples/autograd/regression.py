"""y = a x² + b x + c fitted to 100 noisy points by SGD, one sample a step."""

import torch


def fit(true=(2.0, -3.0, 1.0), epochs=300, lr=1e-4):
    """Return the fitted parameters and the mean loss of the first and of the last epoch."""
    g = torch.Generator().manual_seed(0)
    x = torch.linspace(-5, 5, 100)
    y = true[0] * x**2 + true[1] * x + true[2] + 0.5 * torch.randn(100, generator=g)
    features = torch.stack([x**2, x, torch.ones_like(x)], dim=1)
    w = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=lr)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for i in torch.randperm(100, generator=g):
            optimizer.zero_grad()
            loss = (features[i] @ w - y[i]) ** 2
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / 100)
    return w.tolist(), losses[0], losses[-1]


if __name__ == "__main__":
    parameters, first, last = fit()
    print("fitted:", [round(p, 3) for p in parameters], "true: [2, -3, 1]")
    print(f"loss: {first:.3f} at first, {last:.3f} at last")
