"""A variational autoencoder whose encoder and decoder are two modules with one optimizer."""

import torch
import torch.nn.functional as F
from result import show
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(36, 16)
        self.fc21, self.fc22 = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        return self.fc21(h), self.fc22(h)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc3, self.fc4 = nn.Linear(4, 16), nn.Linear(16, 36)

    def forward(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))


def main():
    torch.manual_seed(1)
    encoder, decoder = Encoder(), Decoder()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for epoch in range(12):
        x = torch.rand(16, 36)
        mu, logvar = encoder(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        recon = decoder(z)
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss = F.binary_cross_entropy(recon, x, reduction="sum") + kld
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"Epoch: {epoch} Average loss: {loss.item() / 16:.6f}")
    show(encoder, decoder)


if __name__ == "__main__":
    main()
