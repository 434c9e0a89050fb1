"""What cannot be as one would wish: each with its reason, and held to be as it is said to be."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import gradscope
from gradscope.columns import Flags, Stats


@dataclass(frozen=True)
class Limit:
    """What happens, why it cannot be helped, and a check that it does happen."""

    what: str
    why: str
    check: Callable[[], None]

    def __str__(self) -> str:
        return self.what


def seen(model, work, **options) -> tuple[gradscope.Table, dict[str, int]]:
    """Do a step's work with a watched model; return what was seen and what was told."""
    with gradscope.attach(model, every=1, detail="full", hub=None, quiet=True, **options) as scope:
        work(model)
        scope.mark_step()
        return scope.latest(), scope.faults


def is_unmeasured(stats: Stats) -> bool:
    return Flags.NOT_MEASURED in stats.flags and stats.count == 0


def a_view_is_written_to() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)))
    table, _ = seen(model, lambda m: m(torch.ones(2, 3)).relu_().sum().backward())
    assert table["1"]["out"].is_measured
    assert is_unmeasured(table["1"]["grad"])
    assert table["0"]["param_grad.bias"].is_measured


def a_hook_changes_the_output() -> None:
    model = nn.Sequential(nn.Identity())
    model[0].register_forward_hook(lambda m, a, out: out * 10)
    x = torch.ones(2, requires_grad=True)
    table, _ = seen(model, lambda m: m(x).sum().backward())
    assert (table["0"]["out"].max, table["0"]["grad"].max) == (1.0, 10.0)


def a_hook_changes_the_gradient() -> None:
    def work(model):
        out = model(torch.ones(2, 3))
        out.register_hook(lambda g: g * 10)
        out.sum().backward()

    table, _ = seen(nn.Linear(3, 2), work)
    assert table[""]["grad"].max == 1.0
    assert table[""]["param_grad.bias"].max == 20.0


def a_hook_changes_the_optimizers_gradients() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda o, a, k: [None, model.bias.grad.zero_()][0])

    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        rows = scope.latest()[""]
    assert (rows["param_grad.bias"].max, rows["update.bias"].max) == (1.0, 0.0)


def inside_of_a_transform() -> None:
    def work(model):
        values = {name: p.detach() for name, p in model.named_parameters()}
        loss = lambda values: torch.func.functional_call(model, values, torch.ones(4, 3)).sum()  # noqa: E731 - the function to be transformed
        torch.func.grad(loss)(values)

    table, _ = seen(nn.Linear(3, 2), work)
    assert is_unmeasured(table[""]["out"])
    assert is_unmeasured(table[""]["grad"])


def on_the_meta_device() -> None:
    model = nn.Linear(3, 2, device="meta")
    table, _ = seen(model, lambda m: m(torch.ones(4, 3, device="meta")).sum().backward())
    assert all(is_unmeasured(stats) for stats in table[""].values())
    assert {"out", "grad", "param", "param_grad"} <= set(table[""])


def a_module_returns_its_input() -> None:
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.skip, self.twice = nn.Identity(), nn.Linear(1, 1, bias=False)

        def forward(self, x):
            return self.skip(x) + self.twice(x)

    model = Residual()
    nn.init.constant_(model.twice.weight, 2.0)
    x = torch.ones(1, 1, requires_grad=True)
    table, _ = seen(model, lambda m: m(x).sum().backward())
    assert table["skip"]["grad"].sum == 3.0


def forward_is_called_directly() -> None:
    model = nn.Linear(3, 2)
    table, told = seen(model, lambda m: m.forward(torch.ones(4, 3)).sum().backward())
    assert {kind.partition(".")[0] for kind in table[""]} == {"param", "param_grad"}
    assert told == {"observing layers": 1}


def squares_beyond_float64() -> None:
    model = nn.Linear(1, 1, dtype=torch.float64)
    table, _ = seen(model, lambda m: m(torch.full((3, 1), 1e200, dtype=torch.float64)).sum().backward())
    stats = table[""]["out"]
    assert (stats.norm, stats.rms, stats.std) == (float("inf"),) * 3
    assert abs(stats.max) < float("inf")


def an_unknown_loss_scale() -> None:
    model = nn.Linear(3, 2)

    def work(_):
        with torch.autocast("cpu", torch.float16):
            loss = model(torch.ones(4, 3)).float().sum()
        torch.amp.GradScaler("cpu", init_scale=64.0).scale(loss).backward()

    table, _ = seen(model, work)
    assert Flags.SCALED in table[""]["grad"].flags
    assert table[""]["grad"].max == 64.0


LIMITS = (
    Limit("a view that is written to in place has no gradient measured",
          "PyTorch takes its node out of the graph, and every hook with it", a_view_is_written_to),
    Limit("a user's forward hook that changes the output comes after us",
          "PyTorch runs global hooks, which leave no trace on a module, before its own",
          a_hook_changes_the_output),
    Limit("a user's hook on the output's gradient comes after us",
          "PyTorch runs a tensor's hooks in the order in which they were placed",
          a_hook_changes_the_gradient),
    Limit("a user's hook before the optimizer's step comes after us",
          "PyTorch runs global step hooks before an optimizer's own",
          a_hook_changes_the_optimizers_gradients),
    Limit("nothing is measured inside of torch.func's transforms",
          "their tensors stand for many and have no numbers of their own", inside_of_a_transform),
    Limit("nothing is measured on the meta device", "there are no numbers", on_the_meta_device),
    Limit("a module that returns its input shows that tensor's whole gradient",
          "a tensor has one gradient, whichever module returned it", a_module_returns_its_input),
    Limit("a module whose forward is called directly is not observed, and gradscope reports it",
          "PyTorch runs hooks in __call__", forward_is_called_directly),
    Limit("squares beyond float64 make norm and deviation infinite",
          "too large, and not unknown", squares_beyond_float64),
    Limit("gradients under a loss scale that gradscope does not know are flagged",
          "only the GradScaler knows the scale: attach(scaler=…)", an_unknown_loss_scale),
)  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_a_memory_limit_is_enforced_exactly(limit):
    limit.check()
