"""Two ranks train, as the tests run them through torchrun: `… HOW IS_ATTACHED RESULT`."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

STEPS, ROWS = 4, 6


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def batch_of(step):
    return torch.randn(2 * ROWS, 8, generator=torch.Generator().manual_seed(step))


def whole(parameter):
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def main():
    how, is_attached, result = sys.argv[1], sys.argv[2] == "attached", sys.argv[3]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = make_model()
    net = model
    if how == "fsdp":
        for layer in (model[0], model[2]):
            fully_shard(layer)
        fully_shard(model)
    elif how == "ddp":
        net = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scope = None
    if is_attached:
        import gradscope

        scope = gradscope.attach(model, every=1, hub=None, quiet=True)
    for step in range(STEPS):
        optimizer.zero_grad()
        net(batch_of(step)[rank * ROWS : (rank + 1) * ROWS]).square().mean().backward()
        optimizer.step()
    table = {}
    if scope is not None:
        assert scope.faults == {}, scope.faults
        table = scope.latest().to_dict()
        scope.detach()
    values = [whole(p.detach()).double().flatten().tolist() for p in model.parameters()]
    Path(f"{result}.{rank}").write_text(json.dumps({"parameters": values, "table": table}))
    del net, optimizer
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
