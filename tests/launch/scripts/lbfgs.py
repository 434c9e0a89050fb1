"""Prediction of sine waves with LBFGS, whose step evaluates the model in a closure."""

import torch
from result import show
from torch import nn


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm1 = nn.LSTMCell(1, 8)
        self.linear = nn.Linear(8, 1)

    def forward(self, series):
        outputs, h, c = [], torch.zeros(len(series), 8), torch.zeros(len(series), 8)
        for value in series.split(1, dim=1):
            h, c = self.lstm1(value, (h, c))
            outputs.append(self.linear(h))
        return torch.cat(outputs, dim=1)


torch.manual_seed(0)
waves = torch.sin(torch.arange(12.0) / 2 + 4 * torch.rand(6, 1))
seq = Sequence()
criterion = nn.MSELoss()
optimizer = torch.optim.LBFGS(seq.parameters(), lr=0.8, max_iter=4)
for _ in range(6):

    def closure():
        optimizer.zero_grad()
        loss = criterion(seq(waves[:, :-1]), waves[:, 1:])
        print("loss:", loss.item())
        loss.backward()
        return loss

    optimizer.step(closure)
show(seq)
