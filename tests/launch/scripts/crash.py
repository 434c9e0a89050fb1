"""A training that raises in its third step, in the forward of a layer."""

import torch
from torch import nn


class Picky(nn.Module):
    def forward(self, x):
        if x.abs().sum() > 10:
            raise ValueError("the input is too large")
        return x


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 4), Picky(), nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for step in range(6):
    optimizer.zero_grad()
    loss = model(torch.full((2, 2), 10.0 * (step == 3))).mean()
    loss.backward()
    optimizer.step()
    print(step, loss.item(), flush=True)
