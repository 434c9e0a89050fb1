"""A training that writes down what each step's gradients were multiplied by: `obeying.py RESULT UNTIL`.

At each step the gradient of the first layer is compared with that of a copy of the model, in the same
state and on the same batch, without interventions. Factors are powers of two, so the product is exact.
"""

import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradscope


def gradient(model, batch):
    model.zero_grad()
    model(batch).square().mean().backward()
    return model[0].weight.grad


def main():
    result, until = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gradscope.attach(model, optimizer, name="obeying", every=20, record=False, quiet=True)
    factors = []
    while not until.exists():
        batch = torch.randn(6, 4)
        control = gradient(copy.deepcopy(model), batch)
        got = gradient(model, batch)
        factor = (got[0, 0] / control[0, 0]).item()
        assert torch.equal(got, factor * control), len(factors)
        factors.append(factor)
        time.sleep(0.0005)
        optimizer.step()
    np.save(result, np.array(factors))


if __name__ == "__main__":
    main()
