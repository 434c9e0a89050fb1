"""An input that is optimized so that a network errs; the network itself is not trained."""

import torch
import torch.nn.functional as F
from result import show
from torch import nn

torch.manual_seed(7)
model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
image, label = torch.rand(1, 16), torch.tensor([2])
delta = torch.zeros_like(image, requires_grad=True)
optimizer = torch.optim.Adam([delta], lr=0.05)
for step in range(12):
    loss = -F.cross_entropy(model(image + delta), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        delta.clamp_(-0.3, 0.3)
    print(step, loss.item())
print(delta)
show(model)
