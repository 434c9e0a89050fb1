"""One encoder for three inputs, with a triplet loss."""

import torch
from result import show
from torch import nn


class SiameseNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(4 * 36, 8)

    def forward_once(self, x):
        return self.fc(self.cnn(x))

    def forward(self, *images):
        return [self.forward_once(each) for each in images]


torch.manual_seed(0)
network = SiameseNetwork()
optimizer = torch.optim.Adagrad(network.parameters(), lr=0.01)
criterion = nn.TripletMarginLoss()
for step in range(12):
    anchor = torch.randn(8, 1, 8, 8)
    loss = criterion(*network(anchor, anchor + 0.1 * torch.randn_like(anchor), torch.randn(8, 1, 8, 8)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
show(network)
