"""Sharpness-aware minimization: an optimizer around another one, and two passes for a step."""

import torch
import torch.nn.functional as F
from result import show
from torch import nn


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    def _parameters(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for p in self._parameters()]).norm()
        for p in self._parameters():
            self.state[p]["old"] = p.data.clone()
            p.add_(p.grad, alpha=(self.param_groups[0]["rho"] / (norm + 1e-12)).item())
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p in self._parameters():
            p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()


torch.manual_seed(42)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
for step in range(12):
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.first_step()
    F.cross_entropy(model(x), y).backward()
    optimizer.second_step()
    print(step, loss.item())
show(model)
