"""Ranks with PyTorch's debug server: `python verdict_ranks.py PORT FOLDER` trains until FOLDER/end is there."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.debug import start_debug_server, stop_debug_server
from torch.nn.parallel import DistributedDataParallel

import gradscope
from gradscope.integrations.debug_server import debug_handlers


def model():
    """Return the same model in each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def train(net, steps):
    """Train with the same data in each call."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        net(torch.full((8, 4), 0.1 * step)).square().mean().backward()
        optimizer.step()
    return net


if __name__ == "__main__":
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    start_debug_server(port=port, handlers=debug_handlers())
    plain = train(model(), 5)
    net = DistributedDataParallel(model())
    scope = gradscope.attach(net, name="<b>run", every=1, hub=None, quiet=True)
    train(net, 5)
    assert all(map(torch.equal, net.parameters(), plain.parameters()))
    (folder / f"trained{rank}").touch()
    while not (folder / "end").exists():
        time.sleep(0.02)
    scope.detach()
    (folder / f"detached{rank}").touch()
    while not (folder / "end2").exists():
        time.sleep(0.02)
    if rank == 0:
        stop_debug_server()
