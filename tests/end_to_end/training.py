"""A training script as the end-to-end tests run it: `training.py RESULT STEPS [--bare] …`.

At each step it also computes the gradients of a copy of the model, in the same state and on the same
batch, without interventions: the control. All is written to RESULT (.npz) at the end.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

LAYER, UPSTREAM, DOWNSTREAM = "2", "0.weight", "4.weight"


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 2)
    )


def backward(model, batch):
    """Return the loss, and the gradient that arrives at the output of LAYER."""
    arriving = []
    model.zero_grad()
    x = model[1](model[0](batch))
    hidden = model[2](x)
    if hidden.requires_grad:
        hidden.register_hook(lambda g: arriving.append(g.clone()))
    loss = model[4](model[3](hidden)).square().mean()
    loss.backward()
    return loss.detach(), arriving[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("result")
    parser.add_argument("steps", type=int)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--name", default="training")
    parser.add_argument("--until", type=Path, help="end early, once this file exists")
    parser.add_argument("--sleep-s", type=float, default=0.01)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if not options.bare:
        import gradscope

        gradscope.attach(model, optimizer, name=options.name, every=options.every)
    generator = torch.Generator().manual_seed(1)
    kept = {
        key: [] for key in ("loss", "up", "down", "own", "control_up", "control_down", "control_out")
    }
    for _ in range(options.steps):
        batch = torch.randn(8, 6, generator=generator)
        control = copy.deepcopy(model)
        _, control_out = backward(control, batch)
        loss, _ = backward(model, batch)
        for key, net in (("", model), ("control_", control)):
            gradients = {name: p.grad.numpy().copy() for name, p in net.named_parameters()}
            kept[f"{key}up"].append(gradients[UPSTREAM])
            kept[f"{key}down"].append(gradients[DOWNSTREAM])
        kept["own"].append(model[2].bias.grad.numpy().copy())
        kept["control_out"].append(control_out.numpy())
        kept["loss"].append(loss.numpy())
        optimizer.step()
        time.sleep(options.sleep_s)
        if options.until is not None and options.until.exists():
            break
    final = {f"final.{name}": p.detach().numpy() for name, p in model.named_parameters()}
    np.savez(options.result, **{key: np.stack(values) for key, values in kept.items()}, **final)


if __name__ == "__main__":
    main()
