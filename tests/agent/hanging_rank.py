"""Three ranks train until one of them hangs in the forward of a layer: `… HUNG UNTIL`, started once for each rank.

It writes the time of the hang into the file HUNG, and continues when the file UNTIL is there.
"""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradscope

STEPS, HANGS_IN, HANGING_RANK = 40, 30, 1
DEADLINE_S = 120


class Hanging(nn.Module):
    """A layer that hangs in one step of one rank."""

    def __init__(self, hung: Path, until: Path) -> None:
        super().__init__()
        self.calls, self.hung, self.until = 0, hung, until

    def forward(self, x):
        if self.calls == HANGS_IN and dist.get_rank() == HANGING_RANK:
            self.hung.write_text(str(time.time()))
            deadline_s = time.monotonic() + DEADLINE_S
            while not self.until.exists() and time.monotonic() < deadline_s:
                time.sleep(0.02)
        self.calls += 1
        return x


def main(hung: str, until: str) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Hanging(Path(hung), Path(until)), nn.Linear(4, 2))
    net = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with gradscope.attach(net, name="job", record=False, quiet=True):
        for _ in range(STEPS):
            net(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            time.sleep(0.05)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
