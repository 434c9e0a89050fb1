"""Watched models inside of what changes the meaning of each operation: transforms and modes."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from trials import Case, Trial
from trials.case import train

from cases.models import mlp, rows

__all__ = ["CASES"]


def transforms(t: Trial) -> None:
    """Everything in torch.func, between and inside of steps. No tensor in it has numbers of its own."""
    t.without_reference()
    model = t.watch(mlp().eval())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values, x):
        return torch.func.functional_call(model, values, (x,)).square().sum()

    for _ in range(2):
        x = rows()
        t.keep(torch.func.grad(loss)(values, x))
        t.keep(torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, x))
        t.keep(torch.func.vmap(model)(x))
        t.keep(torch.func.jvp(model, (x,), (torch.ones_like(x),)))
        t.keep(torch.func.vjp(model, x)[0])
        t.keep(torch.func.jacrev(model)(x[0]), torch.func.jacfwd(model)(x[0]))
        t.keep(torch.func.hessian(lambda x: model(x).sum())(x[0]))
        train(t, model, [x], optimizer)


def forward_mode(t: Trial) -> None:
    t.without_reference()
    model = t.watch(mlp().eval())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(rows(), rows())
        t.keep(torch.autograd.forward_ad.unpack_dual(model(dual)).tangent)
    train(t, model, [rows()])


def trained_through_vmap(t: Trial) -> None:
    t.without_reference()
    model = t.watch(mlp().eval())
    train(t, model, [rows(), rows()], forward=torch.func.vmap(model))


class CountsOperations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


class CountsFunctions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(getattr(function, "__name__", str(function)))
        return function(*args, **(kwargs or {}))


def under_mode(make_mode):
    """Return a case that trains under a mode which sees each operation, in order."""

    def run(t: Trial) -> None:
        model = t.watch(mlp())
        with make_mode() as mode:
            train(t, model, [rows(), rows()], torch.optim.SGD(model.parameters(), lr=0.1))
        t.aside(lambda: mode.seen)  # which sees what plain hooks do, too

    return run


def with_fake_tensors(t: Trial) -> None:
    """As in an estimate of memory: shapes without numbers."""
    t.without_reference()
    with FakeTensorMode():
        model = t.watch(mlp())
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            output = model(rows())
            output.sum().backward()
            t.step(optimizer)
            t.keep(shape=output.shape)
    t.forget(model)


def on_meta(t: Trial) -> None:
    t.without_reference()
    with torch.device("meta"):
        model = t.watch(mlp())
        train(t, model, [rows(), rows()])


CASES = (
    Case("torch.func: grad, vmap, jvp, vjp, jacobians, hessian", transforms),
    Case("trained through vmap", trained_through_vmap),
    Case("forward-mode differentiation", forward_mode),
    Case("under a mode that counts operations", under_mode(CountsOperations)),
    Case("under a mode that counts functions", under_mode(CountsFunctions)),
    Case("with fake tensors", with_fake_tensors),
    Case("on the meta device", on_meta),
)
