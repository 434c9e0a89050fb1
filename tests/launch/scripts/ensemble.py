"""Ten small models; the first is detached after a while, and the script has one of its own attached."""

import torch
from result import show
from torch import nn

import gradscope

torch.manual_seed(0)
models = [nn.Linear(3, 1) for _ in range(10)]
optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
own = gradscope.attach(models[9], name="own-9", hub=None, quiet=True, every=1, record=False)
for step in range(6):
    x = torch.randn(4, 3)
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
    if step == 2:
        for scope in gradscope.scopes():
            if scope is not own and len(gradscope.scopes()) > 8:
                scope.detach()
show(*models)
