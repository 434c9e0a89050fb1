"""A convolutional network on images of digits, in the style of PyTorch's first example."""

import argparse

import torch
import torch.nn.functional as F
from result import show
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(128, 16)
        self.fc2 = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout(F.max_pool2d(x, 2)).flatten(1)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


def train(model, loader, optimizer, epoch):
    model.train()
    for batch, (data, target) in enumerate(loader):
        optimizer.zero_grad()
        loss = F.nll_loss(model(data), target)
        loss.backward()
        optimizer.step()
        print(f"Train Epoch: {epoch} [{batch}/{len(loader)}]\tLoss: {loss.item():.6f}")


def test(model, loader):
    model.eval()
    with torch.no_grad():
        right = sum((model(data).argmax(1) == target).sum().item() for data, target in loader)
    print(f"Accuracy: {right}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.5)
    given = parser.parse_args()
    torch.manual_seed(1)
    target = torch.randint(10, (40,))
    data = torch.randn(40, 1, 12, 12) * 0.3 + target.view(-1, 1, 1, 1) / 10
    loader = DataLoader(TensorDataset(data, target), batch_size=8, shuffle=True)
    model = Net()
    optimizer = optim.Adadelta(model.parameters(), lr=given.lr)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
    for epoch in range(1, given.epochs + 1):
        train(model, loader, optimizer, epoch)
        test(model, loader)
        scheduler.step()
    show(model)


if __name__ == "__main__":
    main()
