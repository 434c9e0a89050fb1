"""Hooks in C: they do what the hooks in Python do, or leave it to them and do nothing."""

import gc
import os
import weakref

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gradscope
from gradscope.columns import COLUMNS
from gradscope.native import native_module
from gradscope.observe.native_hooks import make_native_hooks

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native pass was not built")

WIDTH = 8 * len(COLUMNS)
CALLS = 0


class Watched:
    """A watch of two rows and one module, and what it has told."""

    def __init__(self, rows: int = 2) -> None:
        self.cells, self.expected = bytearray(WIDTH * rows), bytearray(rows)
        self.gradients: list[tuple[object, torch.Tensor]] = []
        self.errors: list[Exception] = []
        self.module = nn.Linear(3, 2)
        self.watch = make_native_hooks(
            native_module(),
            self.cells,
            None,
            None,
            self.expected,
            lambda token, gradient: self.gradients.append((token, gradient)),
            self.errors.append,
        )
        self.watch.add_module(self.module, 0, 1, "place")
        self.watch.begin_epoch(7)

    def column(self, name: str) -> list[float]:
        values = torch.frombuffer(self.cells, dtype=torch.float64).view(-1, len(COLUMNS))
        return values[:, [c.name for c in COLUMNS].index(name)].tolist()


class Seeing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Listening(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Own(torch.Tensor):
    pass


def test_an_output_and_its_gradient_are_measured_and_nothing_is_changed():
    there = Watched()
    x = torch.randn(4, 3)
    bare = there.module(x)
    bare.square().sum().backward()
    wanted = [p.grad.clone() for p in there.module.parameters()]
    there.module.zero_grad()
    output = there.module(x)
    assert there.watch.record_output(there.module, output)
    output.square().sum().backward()
    assert all(torch.equal(p.grad, w) for p, w in zip(there.module.parameters(), wanted, strict=True))
    assert torch.equal(output, bare)
    assert there.column("count") == [8, 8]
    assert there.column("calls") == [1, 1]
    assert there.column("sum")[0] == pytest.approx(float(output.detach().double().sum()))
    assert there.column("sum")[1] == pytest.approx(2 * float(output.detach().double().sum()))
    assert list(there.expected) == [0, 1]
    spent_s, seen = there.watch.take_counts()
    assert seen == 1
    assert 0 < spent_s < 1
    assert there.watch.take_counts() == (0.0, 0)
    assert not there.errors


@pytest.mark.parametrize(
    "make",
    [
        lambda y: y.detach().to(torch.int64),
        lambda y: y.to(torch.complex64),
        lambda y: (y, y),
        lambda y: y.as_subclass(Own),
        lambda y: y.to_sparse(),
        lambda y: nn.Parameter(y.detach()),
        lambda y: y[:, :1],
        lambda y: y.detach().requires_grad_(),
        lambda y: y.detach().conj_physical().to("meta"),
        lambda y: y.imag if y.is_complex() else torch.view_as_complex(y.contiguous()).conj().imag,
        lambda y: None,
    ],
    ids=[
        "integers",
        "complex",
        "tuple",
        "subclass",
        "sparse",
        "parameter",
        "gaps",
        "leaf",
        "meta",
        "negative",
        "none",
    ],
)
def test_unusual_tensors_are_not_recorded_in_c(make):
    there = Watched()
    before = bytes(there.cells)
    assert not there.watch.record_output(there.module, make(there.module(torch.randn(4, 3))))
    assert there.cells == before
    assert not any(there.expected)
    assert not there.errors


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, Seeing, Listening, lambda: torch.autocast("cpu")],
    ids=["no_grad", "inference", "dispatch", "function", "autocast"],
)
def test_under_a_mode_of_torch_an_output_is_not_recorded_in_c(context):
    there = Watched()
    with context():
        output = there.module(torch.randn(4, 3))
        assert not there.watch.record_output(there.module, output)
    assert not any(there.expected)


def test_inside_a_function_transform_an_output_is_not_recorded_in_c():
    there = Watched()
    seen = []

    def loss(x):
        output = there.module(x)
        seen.append(there.watch.record_output(there.module, output))
        return output.sum()

    torch.func.grad(loss)(torch.randn(4, 3))
    torch.vmap(loss)(torch.randn(4, 3))
    assert seen == [False, False]


def test_a_module_that_was_not_put_there_is_left_alone_also_at_the_place_of_one_that_is_gone():
    there = Watched()
    other = nn.Linear(3, 2)
    assert not there.watch.record_output(other, other(torch.randn(4, 3)))
    address, there.module = id(there.module), None
    gc.collect()
    kept = []
    for _ in range(2_000):
        kept.append(nn.Linear(3, 2))
        if id(kept[-1]) == address:
            break
    assert not there.watch.record_output(kept[-1], kept[-1](torch.randn(4, 3)))


def test_a_tensor_that_has_a_hook_is_left_alone_and_one_may_be_added_afterwards():
    there = Watched()
    with_hook = there.module(torch.randn(4, 3))
    with_hook.register_hook(lambda gradient: gradient)
    assert not there.watch.record_output(there.module, with_hook)
    output = there.module(torch.randn(4, 3))
    assert there.watch.record_output(there.module, output)
    handle = output.register_hook(lambda gradient: gradient * 3)
    output.register_hook(lambda gradient: gradient * 2)
    handle.remove()
    there.module.zero_grad()
    output.sum().backward()
    assert there.module.bias.grad.tolist() == [8, 8]
    assert there.column("sum")[1] == 8  # ours came first


def test_a_graph_of_an_earlier_epoch_is_not_measured():
    there = Watched()
    output = there.module(torch.randn(4, 3))
    assert there.watch.record_output(there.module, output)
    there.watch.begin_epoch(8)
    output.sum().backward()
    assert there.column("calls") == [1, 0]
    assert not there.gradients


def test_a_gradient_that_is_uncommon_goes_to_the_hook_in_python():
    there = Watched()
    output = there.module(torch.randn(4, 3, requires_grad=True))
    assert there.watch.record_output(there.module, output)
    torch.autograd.grad(output.square().sum(), there.module.weight, create_graph=True)
    assert [token for token, _ in there.gradients] == [(7, "place")]
    assert there.column("calls") == [1, 0]


def test_an_error_is_reported_and_does_not_reach_the_training():
    there = Watched(rows=1)
    output = there.module(torch.randn(4, 3))
    assert there.watch.record_output(there.module, output)  # the row of the gradient is not there
    assert isinstance(there.errors.pop(), IndexError)
    output.sum().backward()
    there = Watched(rows=2)
    output = there.module(torch.randn(4, 3))
    assert there.watch.record_output(there.module, output)
    del there.cells[WIDTH:]
    output.sum().backward()
    assert "row 1 is outside of the row buffer" in str(there.errors.pop())


def test_nothing_is_kept_alive():
    there = Watched()
    output = there.module(torch.randn(4, 3))
    assert there.watch.record_output(there.module, output)
    references = [weakref.ref(there.module), weakref.ref(output)]
    del output
    there.module = None
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_arguments_that_cannot_be_are_refused():
    native = native_module()
    with pytest.raises(TypeError):
        native.NativeHooks(b"", None, None, bytearray(), (), (), dict, print, print)
    there = Watched()
    with pytest.raises(TypeError):
        there.watch.record_output(there.module)
    with pytest.raises(TypeError):
        there.watch.add_module(there.module, "0", 1, None)


def _rows(monkeypatch, *, native: bool) -> dict[str, dict[str, float]]:
    monkeypatch.setitem(os.environ, "GRADSCOPE_NATIVE", "1" if native else "0")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, hub=None, quiet=True, every=1) as scope:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 1, 8, 8)).square().mean().backward()
            optimizer.step()
        assert not scope.faults
        return scope.latest().to_dict()


def test_a_training_gives_the_same_rows_either_way(monkeypatch):
    quick, slow = _rows(monkeypatch, native=True), _rows(monkeypatch, native=False)
    assert quick.keys() == slow.keys()
    for layer, kinds in slow.items():
        for kind, numbers in kinds.items():
            for name, value in numbers.items():
                assert quick[layer][kind][name] == pytest.approx(
                    value, rel=1e-9, abs=1e-12, nan_ok=True
                )


def test_each_of_many_modules_is_found_at_its_own_rows():
    seen = Watched(rows=1000)
    modules = [nn.Identity() for _ in range(500)]
    for i, module in enumerate(modules):
        seen.watch.add_module(module, 2 * i, 2 * i + 1, i)
    seen.watch.add_module(modules[7], 14, 15, "again")
    for i, module in enumerate(modules):
        assert seen.watch.record_output(module, torch.full((2,), float(i)))
    assert not seen.watch.record_output(nn.Identity(), torch.ones(2))
    assert seen.column("sum")[::2] == [2.0 * i for i in range(500)]
    assert seen.column("calls")[::2] == [1.0] * 500
