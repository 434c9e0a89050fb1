"""Two ranks train by the clock and obey, as the tests run them through torchrun: `… RESULT UNTIL`.

Each rank writes down, for each step, which interventions were in force, whether they changed the
gradient that reached the input (against a copy of the model in the same state without changes), and
the gradients after they were averaged over the ranks; which steps were observed, at what interval; and
in which focus steps were taken of which layers.
"""

import copy
import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def make_model(layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))[:layers]


def input_gradient(model, batch):
    x = batch.clone().requires_grad_()
    model(x).square().mean().backward()
    return x.grad


def main():
    result, until = Path(sys.argv[1]), Path(sys.argv[2])
    are_different = "--different" in sys.argv
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = make_model(layers=2 if are_different and rank == 1 else 3)
    net = model if are_different else DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    import gradscope

    scope = gradscope.attach(model, optimizer, name="ranks", quiet=True)
    generator = torch.Generator().manual_seed(rank)
    kept = {
        "observed": [],
        "focus_steps": [],
        "active": [],
        "is_changed": [],
        "reduced": [],
        "slowest_s": 0.0,
    }
    over = torch.zeros(1)
    while not over.item():
        began_s = time.perf_counter()
        batch = torch.randn(5, 6, generator=generator)
        control = input_gradient(copy.deepcopy(model), batch)
        optimizer.zero_grad()
        got = input_gradient(net, batch)
        kept["is_changed"].append(not torch.equal(got, control))
        kept["reduced"].append([p.grad.sum().double().item().hex() for p in model.parameters()])
        kept["active"].append(
            sorted(state.id for state in scope.interventions if state.active_since is not None)
        )
        optimizer.step()
        newest = scope.latest()
        if [newest.step] != [step for step, _ in kept["observed"][-1:]]:
            kept["observed"].append((newest.step, newest.every))
        focus_step = scope._latest_steps._latest_focus
        if focus_step is not None and [focus_step.step] != [
            step for step, _ in kept["focus_steps"][-1:]
        ]:
            kept["focus_steps"].append((focus_step.step, list(scope.latest_focus())))
        time.sleep(0.002)
        kept["slowest_s"] = max(kept["slowest_s"], time.perf_counter() - began_s)
        over[0] = until.exists()
        dist.all_reduce(over)
    kept["faults"] = scope.faults
    scope.detach()
    Path(f"{result}.{rank}").write_text(json.dumps(kept))
    del net
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
