"""A training in processes that the script starts."""

import torch
import torch.multiprocessing as mp
from result import show
from torch import nn


def train(rank):
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 4)).pow(2).mean().backward()
        optimizer.step()
    show(model)


if __name__ == "__main__":
    mp.spawn(train, nprocs=1)
