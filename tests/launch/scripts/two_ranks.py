"""Data parallel training on the ranks that torchrun has started."""

import torch
import torch.distributed as dist
from result import show
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
ddp_model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(ddp_model.parameters(), lr=0.05)
torch.manual_seed(rank + 1)
for _ in range(8):
    optimizer.zero_grad()
    loss = (ddp_model(torch.randn(4, 6)) - 1).pow(2).mean()
    loss.backward()
    optimizer.step()
show(model)
dist.destroy_process_group()
