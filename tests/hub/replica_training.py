"""Two ranks train in several ways, one recorded run each. Some keep the same parameters, some do not."""

import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradscope

WAYS = ("ddp", "changed", "unseeded", "bypassed", "averaged", "fsdp", "shards")
STEPS = 24


def average(tensors):
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(2)


def train(way, rank):
    torch.manual_seed(rank if way in ("unseeded", "shards") else 0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    net = model
    if way in ("ddp", "changed", "bypassed"):
        net = DistributedDataParallel(model)
    elif way == "fsdp":
        fully_shard(model[0])
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scope = gradscope.attach(model, optimizer, every=1, name=way, quiet=True)
    torch.manual_seed(100 + rank)
    for step in range(STEPS):
        optimizer.zero_grad()
        (model if way == "bypassed" else net)(torch.randn(16, 8)).square().mean().backward()
        if way == "unseeded":
            average([p.grad for p in model.parameters()])
        optimizer.step()
        with torch.no_grad():
            if way == "changed" and step == 5 and rank == 1:
                model[2].weight[0, 3] += 0.01
            if way == "averaged" and step % 4 == 3:
                average([p.data for p in model.parameters()])
    assert scope.faults == {}
    publisher = scope._run.publisher
    while publisher._queue:
        time.sleep(0.01)
    dist.barrier()  # a run ends with its last connected rank: none may end it before the other is connected
    scope.detach()


def main():
    dist.init_process_group("gloo")
    for way in WAYS:
        train(way, dist.get_rank())
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
