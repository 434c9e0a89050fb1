"""What is done with a model while it is watched: copied, saved, exported, deleted; several at once."""

import copy
import gc
import io
import pickle
import re
import weakref

import torch
from torch import nn
from trials import Case, Mode, Trial
from trials.case import loss_of, train

from cases.models import linear_stack, mlp, rows

__all__ = ["CASES"]


class Table(nn.Module):
    """Returns its parameter, so that an observer's hook lies on a leaf during the step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6))

    def forward(self):
        return self.weight


class UsesTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = Table(), nn.Linear(6, 2)

    def forward(self, x):
        return self.linear(x + self.table())


def between_passes(work, make_model=mlp):
    """Return a case that does something between forward and backward, in each of three steps."""

    def run(t: Trial) -> None:
        model = t.watch(make_model())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            output = model(rows())
            t.aside(lambda: work(model, output))  # noqa: B023 - called at once
            loss_of(output).backward()
            t.step(optimizer)
            t.keep(output)

    return run


def a_copy(model, output):
    twin = copy.deepcopy(model).eval()
    loss = loss_of(twin(torch.ones(5, 6)))
    loss.backward()
    hooks = [len(p._backward_hooks or ()) for p in twin.parameters()]
    return [loss, *[p.grad for p in twin.parameters()], *hooks]


def its_pickle(model, output):
    written = pickle.dumps(model)
    return [len(written), b"gradscope" in written, dict(pickle.loads(written).state_dict())]


def saved_and_loaded(model, output):
    buffer = io.BytesIO()
    torch.save({"model": model, "output": output}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    return [loaded["output"], dict(loaded["model"].state_dict())]


def state_saved(model, output):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return dict(torch.load(buffer))


def output_copied(model, output):
    return copy.deepcopy(output)


def parameters_copied(model, output):
    return [copy.deepcopy(p) for p in model.parameters()]


def exported(model, output):
    program = torch.export.export(copy.deepcopy(model).eval(), (torch.ones(5, 6),))
    return [str(program.graph), program.module()(torch.ones(5, 6))]


def exported_itself(model, output):
    program = torch.export.export(model, (torch.ones(5, 6),))
    return [str(program.graph)]


def traced_by_fx(model, output):
    return torch.fx.symbolic_trace(model).code


def traced_by_jit(model, output):
    graph = str(torch.jit.trace(copy.deepcopy(model).eval(), torch.ones(5, 6)).graph)
    return re.sub(r"___torch_mangle_\d+\.| : .*|#.*", "", graph)


def traced_by_jit_itself(model, output):
    graph = str(torch.jit.trace(model, torch.ones(5, 6)).graph)
    return re.sub(r"___torch_mangle_\d+\.| : .*|#.*", "", graph)


def moved_to_double(model, output):
    model.double()
    model.float()


def representation(model, output):
    return [repr(model), [name for name, _ in model.named_modules()], dir(model)]


def lives_no_longer(t: Trial) -> None:
    """Outputs die when the user lets go of them."""
    model = t.watch(mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        hidden = []
        handle = model[0].register_forward_hook(
            lambda m, a, out, to=hidden: to.append(weakref.ref(out))
        )
        loss = loss_of(model(rows()))
        t.keep(is_alive=hidden[0]() is not None)
        loss.backward()
        del loss
        t.keep(is_alive=hidden[0]() is not None)
        handle.remove()
        t.step(optimizer)


def deleted(t: Trial) -> None:
    t.without_reference()
    model = t.watch(mlp())
    train(t, model, [rows()])
    gone = weakref.ref(model)
    t.forget(model)
    output = model(rows())
    del model
    gc.collect()
    t.keep(is_gone=gone() is None)
    output.sum().backward()


def two_models(t: Trial) -> None:
    """A teacher's and a student's scopes, each with an optimizer, in one loop."""
    models = [t.watch(mlp()), t.watch(linear_stack())]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    for _ in range(3):
        for i, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            loss_of(model(rows())).backward()
            t.step(optimizer, model=i)


def one_inside_of_another(t: Trial) -> None:
    t.watch(inner := mlp())
    outer = t.watch(nn.Sequential(nn.Linear(6, 6), inner))
    optimizer = torch.optim.SGD(outer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(outer(rows())).backward()
        t.step(optimizer, model=1)


def detached_within_step(t: Trial) -> None:
    """The scope ends between forward and backward; another begins in the next step."""
    import gradscope

    t.without_reference()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        scope = None
        if t.mode is Mode.ATTACHED:
            scope = gradscope.attach(model, every=1, hub=None, quiet=True)
        optimizer.zero_grad()
        loss = loss_of(model(rows()))
        if scope is not None:
            scope.detach()
        loss.backward()
        optimizer.step()
        t.keep(loss, *model.parameters())


def every_third_step(t: Trial) -> None:
    model = t.watch(mlp(), every=3)
    train(t, model, [rows() for _ in range(7)])


def fast_path(t: Trial) -> None:
    """In evaluation, attention and encoder layers take a fused way when nothing hinders them."""
    t.without_reference()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = t.watch(nn.TransformerEncoder(layer, 2, enable_nested_tensor=True))
    attention = t.watch(nn.MultiheadAttention(8, 2, batch_first=True)).eval()
    x, mask = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    for context in (torch.no_grad, torch.inference_mode):
        model.eval()
        with context():
            t.keep(model(x), model(x, src_key_padding_mask=mask), attention(x, x, x))
        model.train()
        loss_of(model(x)).backward()


class Tagged(torch.Tensor):
    """A user's tensor class that notes what is done with it."""

    seen: list = []  # noqa: RUF012 - one list for all, emptied by the case

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(getattr(function, "__name__", str(function)))
        return super().__torch_function__(function, types, args, kwargs)


def tensor_subclass(t: Trial) -> None:
    model = t.watch(mlp())
    Tagged.seen.clear()
    train(t, model, [rows().as_subclass(Tagged) for _ in range(2)])
    t.aside(lambda: list(Tagged.seen))  # in which plain hooks leave their traces


CASES = (
    Case("a copy, trained", between_passes(a_copy)),
    Case("a copy of a model that returns its parameter", between_passes(a_copy, UsesTable)),
    Case("pickled", between_passes(its_pickle)),
    Case("saved with its output and loaded", between_passes(saved_and_loaded)),
    Case("saved with its output, returns its parameter", between_passes(saved_and_loaded, UsesTable)),
    Case("its state saved", between_passes(state_saved)),
    Case("an output copied: bare refuses", between_passes(output_copied)),
    Case("parameters copied one by one", between_passes(parameters_copied, UsesTable)),
    Case("torch.export of a copy", between_passes(exported)),
    Case("torch.export of the model", between_passes(exported_itself)),
    Case("torch.fx", between_passes(traced_by_fx, linear_stack)),
    Case("torch.jit.trace of a copy", between_passes(traced_by_jit)),
    Case("torch.jit.trace of the model", between_passes(traced_by_jit_itself, linear_stack)),
    Case("moved to float64 and back", between_passes(moved_to_double)),
    Case("what it says of itself", between_passes(representation)),
    Case("outputs die as they would", lives_no_longer),
    Case("the model is deleted", deleted),
    Case("two watched models", two_models),
    Case("a watched model inside of a watched model", one_inside_of_another),
    Case("detached between forward and backward", detached_within_step),
    Case("every third step observed", every_third_step),
    Case("the fast path of attention in evaluation", fast_path),
    Case("a user's tensor class", tensor_subclass),
)
