"""Two ranks train until a file is there, as the test of pauses runs them: `… STOP RESULT`."""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradscope

BAD = 20


def main():
    stop, result = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    net = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scope = gradscope.attach(model, optimizer, every=1, name="two", record=False, quiet=True)
    scope.rule("nonfinite", action="skip_step")
    held = []
    send = scope._run.event

    def event(level, code, text):
        if code.startswith(("pause", "resume")):
            held.append([code, text])
        send(level, code, text)

    scope._run.event = event
    step = 0
    while True:
        is_over = torch.tensor([float(stop.exists())])
        dist.all_reduce(is_over)
        if is_over.item():
            break
        optimizer.zero_grad()
        loss = net(torch.randn(3, 4)).square().mean()
        if step == BAD and rank == 1:  # only one rank sees it before the reduction
            loss = loss * float("nan")
        loss.backward()
        optimizer.step()
        step += 1
        time.sleep(0.01)
    parameters = [p.detach().flatten().tolist() for p in model.parameters()]
    told = {"held": held, "faults": scope.faults, "parameters": parameters}
    told["alerts"] = [alert.step for alert in scope.alerts if not alert.finding.layer]
    Path(f"{result}.{rank}").write_text(json.dumps(told))
    scope.detach()
    del net, optimizer
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
