"""A replay of models that are wrapped, compiled or sharded, and of a forward for which the memory does not suffice."""

import itertools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradscope
from agent.flight_recorder.cases import Sick, log_of_zero, mlp, root_at_zero, set_sick

pytestmark = pytest.mark.slow

SICK = 5


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def finding(model, attached=None):
    """Train `model` with a fault in one step, and return the finding about it."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with gradscope.attach(attached or model, hub=None, record=False, quiet=True) as scope:
        for step in range(SICK + 3):
            set_sick(model, step == SICK)
            optimizer.zero_grad()
            model(torch.randn(8, 6)).square().mean().backward()
            optimizer.step()
        assert scope.faults == {}
        return next(each for each in scope.findings if each.code == "nonfinite")


@pytest.mark.parametrize("fault", [log_of_zero, root_at_zero])
@pytest.mark.parametrize("is_wrapper_attached", [False, True])
@pytest.mark.usefixtures("one_rank")
def test_a_replicated_model_is_replayed_without_its_wrapper(fault, is_wrapper_attached):
    torch.manual_seed(0)
    inner = mlp(Sick(fault))
    model = DistributedDataParallel(inner)
    found = finding(model, model if is_wrapper_attached else inner)
    assert found.found_step == SICK
    assert found.layers == ("module.2" if is_wrapper_attached else "2",)
    assert found.evidence["source"].endswith("# fault")


@pytest.mark.usefixtures("one_rank")
def test_a_sharded_model_is_not_replayed_and_the_finding_says_so():
    torch.manual_seed(0)
    model = mlp(Sick(log_of_zero))
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
    found = finding(model)
    assert found.found_step == SICK
    assert "sharded" in found.message
    assert "operation" not in found.evidence


@pytest.mark.parametrize("fault", [log_of_zero, root_at_zero])
def test_a_compiled_model_is_replayed_without_the_compiler(fault):
    torch.manual_seed(0)
    inner = mlp(Sick(fault))
    found = finding(torch.compile(inner, backend="aot_eager"), inner)
    assert found.found_step == SICK
    assert found.layers == ("2",)
    assert found.evidence["source"].endswith("# fault")


class Hungry(nn.Module):
    """Runs out of memory if it is called once more than there are steps: in the replay."""

    def __init__(self, calls):
        super().__init__()
        self.layer = mlp(Sick(log_of_zero))
        self.next_call = calls.__next__

    def forward(self, x):
        if self.next_call() == SICK + 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(x)


def test_a_replay_that_runs_out_of_memory_is_said():
    torch.manual_seed(0)
    found = finding(Hungry(itertools.count()))
    assert found.found_step == SICK
    assert "the memory did not suffice to replay" in found.message
