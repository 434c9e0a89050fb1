"""Parameters that change under the optimizer's hands, and optimizer steps in unusual surroundings."""

import contextlib
import copy
import pickle

import torch
from torch import nn
from trials import Case, Trial
from trials.case import loss_of, train

from cases.models import linear_stack, mlp, rows

__all__ = ["CASES"]


def sgd(model) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def within(context):
    """Return a case whose optimizer steps inside of a context."""

    def run(t: Trial) -> None:
        model = t.watch(mlp())
        optimizer = sgd(model)

        def step():
            with context():
                return optimizer.step()

        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model(rows())).backward()
            t.step(optimizer, by=step)

    return run


def changed_between(change, dtypes=(torch.float32,) * 3, make_model=mlp):
    """Return a case that changes a model's parameters before each step: change(model, dtype)."""

    def run(t: Trial) -> None:
        model = t.watch(make_model())
        optimizer = sgd(model)
        for dtype in dtypes:
            change(model, dtype)
            train(t, model, [rows().to(dtype)], optimizer)

    return run


def other_memory(model, _) -> None:
    for p in model.parameters():
        p.data = torch.rand_like(p)


def one_memory(model, _) -> None:
    """All parameters become views of one vector, as some optimizers and wrappers have it."""
    flat = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(flat, model.parameters())


def transposed(model, _) -> None:
    for p in model.parameters():
        p.data = p.data.t().contiguous().t()


class Grows(nn.Module):
    """A vector of any length, summed against its index."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.vector * torch.arange(self.vector.numel()) * x.mean()


def resized(t: Trial) -> None:
    t.without_reference()  # which keeps the parameter's node, and with it the size that it had
    model = t.watch(Grows())
    optimizer = sgd(model)
    for size in (4, 40_000, 3, 5):
        model.vector.data = torch.ones(size)
        train(t, model, [rows()], optimizer)


def users_step_hooks(t: Trial) -> None:
    model = t.watch(mlp())
    optimizer, seen = sgd(model), []
    optimizer.register_step_pre_hook(lambda o, a, k: seen.append("pre"))
    optimizer.register_step_post_hook(lambda o, a, k: seen.append("post"))
    train(t, model, [rows(), rows()], optimizer)
    t.keep(seen)


def optimizer_copied(t: Trial) -> None:
    """A copy of an optimizer belongs to the copy's parameters, and no steps."""
    model = t.watch(mlp())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(t, model, [rows()], optimizer)
    twin = copy.deepcopy(optimizer)
    twin.step()
    written = pickle.dumps(optimizer)
    t.keep(len(written), b"gradscope" in written, twin.state_dict())
    train(t, model, [rows()], optimizer)


def one_optimizer_a_parameter(t: Trial) -> None:
    """As where the optimizer steps inside of backward: each parameter has its own."""
    t.without_reference()
    model = t.watch(linear_stack())
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        loss = loss_of(model(rows()))
        loss.backward()
        t.keep(loss)


def a_failing_step(t: Trial) -> None:
    """An optimizer that raises in the middle of its step: its rows are unsure; the next step is complete."""
    model = t.watch(mlp())
    optimizer = sgd(model)
    loss_of(model(rows())).backward()
    good, model[0].weight.grad = model[0].weight.grad, None
    model[0].weight.grad = good.to_sparse()
    failing = torch.optim.Adam(model.parameters())
    t.attempt(lambda: t.step(failing, ends=False))
    model[0].weight.grad = good
    t.step(optimizer)
    train(t, model, [rows(), rows()], optimizer)


class Wraps(torch.optim.Optimizer):
    """As Lookahead and its like: an optimizer whose step takes another's, of the same parameters."""

    def __init__(self, inner) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure=None):
        self.inner.step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.99)


def a_wrapping_optimizer(t: Trial) -> None:
    model = t.watch(mlp())
    optimizer = Wraps(sgd(model))
    train(t, model, [rows(), rows(), rows()], optimizer)


CASES = (
    Case("optimizer.step under no_grad", within(torch.no_grad)),
    Case("optimizer.step with gradients enabled", within(torch.enable_grad)),
    Case("optimizer.step in inference mode: bare refuses or not", within(torch.inference_mode)),
    Case("optimizer.step in nothing special", within(contextlib.nullcontext)),
    Case("other memory before each step", changed_between(other_memory)),
    Case("views of one vector", changed_between(one_memory)),
    Case("transposed in memory", changed_between(transposed)),
    Case(
        "moved to another precision between steps",
        changed_between(
            lambda model, dtype: model.to(dtype),
            (torch.float32, torch.float64, torch.bfloat16, torch.float32),
        ),
    ),
    Case("resized between steps", resized),
    Case("user's hooks on steps", users_step_hooks),
    Case("the optimizer copied and pickled", optimizer_copied),
    Case("an optimizer for each parameter, stepping in backward", one_optimizer_a_parameter),
    Case(
        "an optimizer that fails",
        a_failing_step,
        not_measured=frozenset(
            (layer, f"{kind}{name}")
            for layer in ("0", "3", "5")
            for kind in ("param", "param_grad", "update")
            for name in ("", ".weight", ".bias")
        ),
    ),
    Case("an optimizer that wraps another", a_wrapping_optimizer),
)
