"""Modules called in unusual ways: often, never, elsewhere; shared, frozen, changed while watched."""

import threading

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from trials import Case, Trial, trained
from trials.case import loss_of, train

from cases.models import linear_stack, rows

__all__ = ["CASES"]


class Repeats(nn.Module):
    """Calls one layer several times, with `times` calls."""

    def __init__(self, times=lambda x: 4) -> None:
        super().__init__()
        self.inner, self.unused = nn.Linear(6, 6), nn.Linear(6, 6)
        self.times = times

    def forward(self, x):
        for _ in range(self.times(x)):
            x = torch.tanh(self.inner(x))
        return x


class Calls(nn.Module):
    """A layer and a function of (layer, x)."""

    def __init__(self, function, inner=None) -> None:
        super().__init__()
        self.inner = inner or nn.Linear(6, 6)
        self.function = function

    def forward(self, x):
        return self.function(self.inner, x)


class Recursive(nn.Module):
    """Calls itself: the hook is entered while it runs for the same module."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.linear, self.depth = nn.Linear(6, 6), depth

    def forward(self, x, depth=None):
        depth = self.depth if depth is None else depth
        return x if depth == 0 else self(torch.tanh(self.linear(x)), depth - 1)


class Two(nn.Module):
    """The same module under two names, and tied weights."""

    def __init__(self, is_tied_only: bool) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6) if is_tied_only else self.first
        if is_tied_only:
            self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def in_a_thread(inner, x):
    result = []
    thread = threading.Thread(target=lambda: result.append(inner(x)))
    thread.start()
    thread.join()
    return result[0]


def some_frozen(model) -> None:
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)


def no_layer_on_some_steps(t: Trial) -> None:
    model = t.watch(Repeats(lambda x: 2 if x.sum() > 0 else 0))
    batches = [torch.full((2, 6), sign, requires_grad=True) for sign in (1.0, -1.0, 1.0)]
    train(t, model, batches)


def added_and_removed(t: Trial) -> None:
    model = t.watch(linear_stack())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(t, model, [rows()], optimizer)
    model.append(nn.Linear(6, 6))
    optimizer.add_param_group({"params": list(model[3].parameters())})
    del model[0]
    t.changed()
    train(t, model, [rows(), rows()], optimizer)


def replaced(t: Trial) -> None:
    model = t.watch(linear_stack())
    for _ in range(2):
        model[1] = nn.Linear(6, 6)
        t.changed()
        train(t, model, [rows(), rows()])


def parametrized_while_watched(t: Trial) -> None:
    model = t.watch(linear_stack())
    train(t, model, [rows()])
    parametrizations.weight_norm(model[0])
    t.changed()
    train(t, model, [rows(), rows()])
    parametrize.remove_parametrizations(model[0], "weight")
    t.changed()
    train(t, model, [rows()])


def hooked(register) -> object:
    """Return a case with the user's own hooks, registered before the model is watched."""

    def run(t: Trial) -> None:
        model = linear_stack()
        seen = []
        register(model, seen)
        t.watch(model)
        train(t, model, [rows() for _ in range(3)])
        t.keep(seen=[str(item) for item in seen])

    return run


def plain_hooks(model, seen) -> None:
    model[0].register_forward_pre_hook(lambda m, a: seen.append("pre"))
    model[1].register_forward_hook(lambda m, a, out: seen.append(out.sum().item()))
    model[1].register_full_backward_pre_hook(lambda m, g: seen.append(g[0].sum().item()))
    model[2].register_full_backward_hook(lambda m, i, g: seen.append(g[0].sum().item()))


def changing_hooks(model, seen) -> None:
    model[0].register_forward_pre_hook(lambda m, a: (a[0] * 2,))
    model[2].register_full_backward_hook(lambda m, i, g: (i[0] * 0.5,))


def always_hooks(model, seen) -> None:
    model[1].register_forward_hook(lambda m, a, k, out: seen.append(1), with_kwargs=True)
    model[1].register_forward_hook(lambda m, a, out: seen.append(2), always_call=True, prepend=True)


def state_dict_hooks(model, seen) -> None:
    model.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append(prefix))
    model.state_dict()


def user_tensor_hooks(t: Trial) -> None:
    model = t.watch(linear_stack())
    seen = []

    def forward(x):
        hidden = model[0](x)
        hidden.register_hook(lambda g: seen.append(g.norm().item()))
        hidden.retain_grad()
        out = model[1](hidden)
        out.register_hook(lambda g: seen.append(g.sum().item()))
        seen.append(hidden)
        return out

    train(t, model, [rows(), rows()], forward=forward)
    t.keep(seen=[item if isinstance(item, float) else item.grad for item in seen])


def post_accumulate_hooks(t: Trial) -> None:
    model = t.watch(linear_stack())
    seen = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.norm().item()))
    train(t, model, [rows(), rows()])
    t.keep(*seen)


def threads_at_once(t: Trial) -> None:
    """Two threads run forwards of one model at the same time; each has its own loss."""
    model = t.watch(linear_stack())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches, outputs = [rows(), rows()], [None, None]
    threads = [
        threading.Thread(target=lambda i=i: outputs.__setitem__(i, model(batches[i]))) for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for output in outputs:
        loss_of(output).backward()
    t.step(optimizer)
    t.keep(*outputs)


def lazy():
    return nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))


def lazy_first_step(t: Trial) -> None:
    model = t.watch(lazy())
    optimizer = None
    for _ in range(3):
        x = rows()
        output = model(x)
        optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.zero_grad()
        loss_of(output).backward()
        t.step(optimizer)
        t.keep(output)


def lists_of_parameters(t: Trial) -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.ParameterList([nn.Parameter(torch.rand(6)) for _ in range(2)])
            self.shifts = nn.ParameterDict({"a": nn.Parameter(torch.rand(6))})
            self.linear = nn.Linear(6, 6)

        def forward(self, x):
            return self.linear(x * self.scales[0] * self.scales[1] + self.shifts["a"])

    train(t, t.watch(Owner()), [rows(), rows()])


class OwnsAlongside(nn.Sequential):
    """A Sequential with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6), nn.Tanh())
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return super().forward(x) * self.gain


NONE_SEEN = frozenset({"observing layers"})
"""gradscope says so when no layer computed in a step that was to be observed."""

CASES = (
    Case("called four times", trained(Repeats, rows)),
    Case("called on some steps only", no_layer_on_some_steps, told=NONE_SEEN),
    Case("called in another thread", trained(lambda: Calls(in_a_thread), rows)),
    Case("called in two threads at once", threads_at_once),
    Case("calls itself", trained(lambda: Recursive(5), rows)),
    Case("two hundred modules deep", trained(lambda: linear_stack(200), rows, steps=2)),
    Case("calls itself 60 times", trained(lambda: Recursive(60), rows, steps=2)),
    Case("never called: forward() of the child used", trained(
        lambda: Calls(lambda inner, x: inner.forward(x)), rows), told=NONE_SEEN),
    Case("only its weight is used", trained(
        lambda: Calls(lambda inner, x: x @ inner.weight), rows), told=NONE_SEEN),
    Case("given keywords", trained(lambda: Calls(lambda inner, x: inner(input=x)), rows)),
    Case("one module under two names", trained(lambda: Two(is_tied_only=False), rows)),
    Case("tied weights", trained(lambda: Two(is_tied_only=True), rows)),
    Case("some parameters frozen", trained(linear_stack, rows, before=some_frozen)),
    Case("a list and a dictionary of parameters", lists_of_parameters),
    Case("a Sequential with a parameter of its own", trained(
        lambda: nn.Sequential(OwnsAlongside(), nn.Linear(6, 2)), rows)),
    Case("the root is a single layer", trained(lambda: nn.Linear(6, 2), rows)),
    Case("weight_norm", trained(lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU()), rows)),
    Case("spectral_norm", trained(lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 6)), nn.ReLU()), rows)),
    Case("orthogonal", trained(lambda: nn.Sequential(
        parametrizations.orthogonal(nn.Linear(6, 6))), rows)),
    Case("lazy modules, watched before the first forward", lazy_first_step),
    Case("layers added and removed while watched", added_and_removed),
    Case("a layer replaced while watched", replaced),
    Case("parametrized while watched", parametrized_while_watched),
    Case("user's hooks of all kinds", hooked(plain_hooks)),
    Case("user's hooks that change inputs and gradients", hooked(changing_hooks)),
    Case("user's hooks with keywords, prepended, always called", hooked(always_hooks)),
    Case("user's state dict hooks", hooked(state_dict_hooks)),
    Case("user's hooks on tensors, retain_grad", user_tensor_hooks),
    Case("user's hooks after accumulation", post_accumulate_hooks),
)  # fmt: skip
