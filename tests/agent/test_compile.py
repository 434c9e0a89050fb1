"""Under torch.compile: the model compiles as without gradscope, trains the same, and blindness is said."""

import warnings

import pytest
import torch
from torch import nn

import gradscope


def train(is_attached, backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, every=2, hub=None, quiet=True) if is_attached else None
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    losses = []
    for _ in range(5):
        loss = compiled(torch.randn(32, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    rows = {} if scope is None else {layer: set(kinds) for layer, kinds in scope.latest().items()}
    if scope is not None:
        scope.detach()
    return losses, [p.detach().clone() for p in model.parameters()], rows


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_compiles_whole_and_trains_bitwise_the_same(backend, caplog):
    bare = train(is_attached=False, backend=backend)
    attached = train(is_attached=True, backend=backend)
    assert attached[0] == bare[0]
    assert all(torch.equal(a, b) for a, b in zip(attached[1], bare[1], strict=True))
    assert {"param", "param_grad", "update"} <= attached[2]["0"]
    assert "out" not in attached[2]["0"]
    assert caplog.text.count("no layer was seen computing in step 0: the model is compiled") == 1


def test_the_warning_filters_are_as_before_after_detach():
    before = list(warnings.filters)
    model = nn.Linear(2, 2)
    scope = gradscope.attach(model, hub=None, quiet=True)
    assert len(warnings.filters) == len(before) + 1
    scope.detach()
    assert list(warnings.filters) == before
