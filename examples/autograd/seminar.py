"""A seminar on tensors and training, as a notebook would go through it.

Broadcasting, devices, gradients that accumulate, a sigmoid of one's own, and a regression that is
watched by `gradscope.attach` instead of by lists and print. (What the sigmoid's saved output costs is
measured in `memory.py`; curves of the regression are drawn by `regression.py`.)
"""

# %% Broadcasting instead of loops
import torch
from activations import Sigmoid, SigmoidLayer, gradchecks_of_the_sigmoid
from first_steps import accumulation
from tensors import cosine_matrix, matmul_times, normalised_means
from torch import nn

import gradscope

torch.manual_seed(0)
a, b = torch.randn(11, 8), torch.randn(17, 8)
reference = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
print("cosines:", tuple(cosine_matrix(a, b).shape), "close to the reference:",
      torch.allclose(cosine_matrix(a, b), reference, atol=1e-6))  # fmt: skip
print("channel means of a normalised grey picture:", [round(v, 4) for v in normalised_means().tolist()])

# %% Devices
devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
for device in devices:
    times = ", ".join(f"{n}: {t:.4f} ms" for n, t in matmul_times(device).items())
    print(f"matrix products on {device}: {times}")
try:
    torch.ones(2) + torch.ones(2, device="meta")
except RuntimeError as error:
    print("two devices in one sum:", type(error).__name__)
print("moved, and back:", torch.ones(2).to(devices[-1]).to("cpu").tolist())

# %% Gradients accumulate: f = w1·x + w2·y + w3, and a second backward adds
once, twice = accumulation()
print("gradient after one backward:", once, "after two:", twice)

# %% A sigmoid of one's own: σ(1 - σ) from the saved output
for dtype, verdict in gradchecks_of_the_sigmoid().items():
    print(f"gradcheck in {dtype}, eps 1e-4: {verdict}")
report = gradscope.examine(Sigmoid, torch.tensor([0.0, 1.0]))
for name in ("Jacobian of x, by backward", "Hessian of the sum, by backward"):
    print(f"{name}: {report.steps[4].numbers[name]}")
print("torch has it:", report.findings[0].message)
layer = SigmoidLayer()
print("as a layer of a network:", nn.Sequential(nn.Linear(3, 2), layer)(torch.ones(1, 3)).shape)

# %% y = a x² + b x + c, watched: loss and gradients come from the scope
x = torch.linspace(-5, 5, 100)
y = 2 * x**2 - 3 * x + 1 + 0.5 * torch.randn(100)
features = torch.stack([x**2, x], dim=1)
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
with gradscope.attach(model, optimizer, every=100, hub=None, quiet=True) as scope:
    for epoch in range(10):
        for i in torch.randperm(100):
            optimizer.zero_grad()
            loss = (model(features[i]) - y[i]).square().sum()
            loss.backward()
            optimizer.step()
        gradient = scope.latest()[""]["param_grad"]
        print(f"epoch {epoch}: ‖gradient‖ {gradient.norm:8.3f} in step {scope.latest().step}")
found = [*model.weight.detach().flatten().tolist(), model.bias.item()]
print("after 10 epochs a, b, c:", [round(v, 2) for v in found], "and on the way to [2, -3, 1]")
