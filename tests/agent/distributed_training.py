"""Two ranks train in several ways, as the tests run them through torchrun: `… RESULT UNTIL`.

Each way is trained twice: bare, and attached. The scopes stay until the file UNTIL is there, so that a
client can look at the last step of each.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

WAYS = ("ddp", "accumulate", "fsdp")
STEPS, ROWS, RANKS = 4, 6, 2


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def batches_of(way, step, ranks):
    """The step's micro-batches: those of the given ranks together."""
    whole = torch.randn(RANKS, ROWS, 8, generator=torch.Generator().manual_seed(step))
    pieces = 2 if way == "accumulate" else 1
    return [part.reshape(-1, 8) for part in whole[ranks].chunk(pieces, dim=1)]


def train_step(net, optimizer, batches):
    """One optimizer step over micro-batches; only the last one lets DDP communicate."""
    optimizer.zero_grad()
    for i, batch in enumerate(batches):
        is_last = i == len(batches) - 1
        with contextlib.nullcontext() if is_last else net.no_sync():
            (net(batch).square().mean() / len(batches)).backward()
    optimizer.step()


def distributed(way):
    model = make_model()
    if way == "fsdp":
        for layer in (model[0], model[2]):
            fully_shard(layer)
        fully_shard(model)
        return model, model
    return model, DistributedDataParallel(model)


def whole(parameter):
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def train(way, rank, attach):
    model, net = distributed(way)
    optimizer = make_optimizer(model)
    scope = attach(model, way)
    for step in range(STEPS):
        train_step(net, optimizer, batches_of(way, step, [rank]))
    values = [whole(p.detach()).double().flatten().tolist() for p in model.parameters()]
    return values, scope, net


def main():
    result, until = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    bare = {way: train(way, rank, lambda model, way: None)[0] for way in WAYS}

    import gradscope

    def attach(model, way):
        return gradscope.attach(model, name=way, every=1, quiet=True)

    attached = {way: train(way, rank, attach) for way in WAYS}
    kept = {
        way: {
            "is_equal": values == bare[way],
            "faults": scope.faults,
            "ranks": scope.latest().ranks,
            "steps": scope.step,
        }
        for way, (values, scope, _) in attached.items()
    }
    Path(f"{result}.{rank}").write_text(json.dumps(kept))
    while not until.exists():
        time.sleep(0.05)
    for _, scope, _ in attached.values():
        scope.detach()
    del attached
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
