"""Interventions on sharded parameters: elementwise ones act on the own part, others are refused."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn

import gradscope
from gradscope.errors import UsageError

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    dist.init_process_group(
        "gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=30)
    )
    yield
    dist.destroy_process_group()


def trained(scope_of=None):
    from torch.distributed.device_mesh import init_device_mesh  # these two take seconds
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        if scope_of is not None:
            scope_of(scope)
        model(X).square().sum().backward()
        optimizer.step()
        assert not scope.faults
        assert all(audit.what == "set" for audit in scope.history)
    return {name: p.grad.full_tensor().clone() for name, p in model.named_parameters()}


def test_elementwise_changes_act_on_the_part_that_a_rank_holds(one_rank):
    control = trained()
    got = trained(
        lambda s: (s.scale("2", factor=3.0, site="params"), s.clamp("0", limit=0.5, site="params"))
    )
    for name in control:
        expected = control[name] * 3.0 if name[0] == "2" else control[name].clamp(-0.5, 0.5)
        assert torch.equal(got[name], expected), name


@pytest.mark.parametrize(
    "install",
    [
        lambda s: s.clip("2", max_norm=1.0, site="params"),
        lambda s: s.scale("2", factor=2.0, when="norm > 1", site="params"),
        lambda s: s.noise("2", std=1.0, relative=True, site="params"),
        lambda s: s.intervene("2", torch.sign, site="params"),
    ],
)
def test_what_needs_a_whole_gradient_is_refused_with_the_reason(one_rank, install):
    with pytest.raises(UsageError, match="needs whole gradients, and each rank holds a shard"):
        trained(install)
