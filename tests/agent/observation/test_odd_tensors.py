"""Tensors of every layout and kind pass through a watched model without an error or a warning."""

import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gradscope
from gradscope.errors import UsageError
from gradscope.hooks import gradient_of, size_bytes_of


class Refusing(torch.Tensor):
    """A subclass that refuses every operation and every attribute."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"refused: {function}")


class Wrapper(torch.Tensor):
    """A subclass without memory of its own that refuses every operation."""

    @staticmethod
    def __new__(cls, size):
        return torch.Tensor._make_wrapper_subclass(cls, (size,), dtype=torch.float32)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(str(function))


def fake():
    with FakeTensorMode():
        return torch.empty(3, 3)


def inference():
    with torch.inference_mode():
        return torch.ones(3)


def nested(layout):
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout)


def quantized(*, per_channel):
    if per_channel:
        return torch.quantize_per_channel(
            torch.ones(4, 4), torch.full((4,), 0.1), torch.zeros(4), 0, torch.quint8
        )
    return torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.quint8)


def uncoalesced():
    return torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (4, 4))


ODD = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse with gradient": lambda: torch.eye(4).to_sparse().requires_grad_(),
    "sparse uncoalesced": uncoalesced,
    "sparse hybrid": lambda: torch.eye(4).to_sparse(1),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "csc": lambda: torch.eye(4).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "nested": lambda: nested(torch.strided),
    "jagged": lambda: nested(torch.jagged),
    "meta": lambda: torch.empty(3, 3, device="meta"),
    "fake": fake,
    "quantized": lambda: quantized(per_channel=False),
    "quantized per channel": lambda: quantized(per_channel=True),
    "mkldnn": lambda: torch.eye(4).to_mkldnn(),
    "conjugate": lambda: torch.ones(4, dtype=torch.complex64).conj(),
    "negative": lambda: torch.ones(4, dtype=torch.complex64).conj().imag,
    "scalar": lambda: torch.tensor(1.0),
    "empty": lambda: torch.empty(0, 3),
    "expanded": lambda: torch.ones(1).expand(5, 5),
    "overlapping": lambda: torch.ones(6).as_strided((3, 3), (1, 1)),
    "float8": lambda: torch.ones(4).to(torch.float8_e4m3fn),
    "bits": lambda: torch.zeros(3, dtype=torch.uint8).view(torch.bits8),
    "bool": lambda: torch.ones(3, dtype=torch.bool),
    "uint16": lambda: torch.zeros(3, dtype=torch.uint16),
    "half complex": lambda: torch.zeros(3, dtype=torch.complex32),
    "inference": inference,
    "lazy": nn.UninitializedParameter,
    "not a leaf": lambda: torch.ones(4, requires_grad=True) * 2,
    "wrapper": lambda: Wrapper(3),
    "refusing": lambda: torch.ones(3).as_subclass(Refusing),
}


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Layer(nn.Module):
    """Returns its second argument next to what it computes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x, odd=None):
        return Double.apply(self.linear(x)), odd


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer()

    def forward(self, x, odd=None):
        return self.layer(x, odd=odd)


def make_odd(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ODD[name]()


@pytest.mark.parametrize("where", ["argument", "keyword", "buffer"])
@pytest.mark.parametrize("name", ODD)
def test_a_model_with_an_odd_tensor_is_observed_without_an_error_or_a_warning(name, where, caplog):
    odd = make_odd(name)
    model = Model()
    if where == "buffer":
        model.layer._buffers["odd"] = odd
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"every": 1, "resources_every": 1, "detail": "full", "hub": None, "quiet": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gradscope.attach(model, optimizer, **options) as scope:
            capture = scope.capture("layer")
            for _ in range(3):
                args, kwargs = ([], {"odd": odd}) if where == "keyword" else ([odd], {})
                y, _ = model(torch.ones(2, 3), *args[: where == "argument"], **kwargs)
                y.sum().backward()
                optimizer.step()
            stats = scope.latest()["layer.linear"]
            assert (stats["out"].count, stats["grad"].count, stats["update.weight"].count) == (6, 6, 9)
            assert scope.memory()["layer.linear"].param_bytes == 48
            assert capture.tensors()
            assert scope.faults == {}
    assert not caplog.records


@pytest.mark.parametrize("name", ["nested", "jagged", "lazy", "refusing", "wrapper", "meta", "sparse"])
def test_logging_an_odd_tensor_is_refused_in_words(name):
    with (
        gradscope.attach(Model(), hub=None, quiet=True) as scope,
        pytest.raises(UsageError, match="odd"),
    ):
        scope.log(odd=make_odd(name))


@pytest.mark.parametrize("name", ODD)
def test_the_size_of_any_tensor_is_that_of_its_stored_elements(name):
    odd = make_odd(name)
    size = size_bytes_of(odd)
    known = {
        "sparse": 4 * (4 + 8 * 2),
        "csr": 4 * 4 + 8 * (5 + 4),
        "scalar": 4,
        "meta": 36,
        "nested": 72,
        "lazy": 0,
    }
    assert size == known.get(name, size) >= 0


def test_gradient_of_returns_none_for_a_tensor_other_than_a_leaf_and_does_not_warn():
    leaf = torch.ones(3, requires_grad=True)
    inner = leaf * 2
    inner.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradient_of(inner) is None
        assert torch.equal(gradient_of(leaf), torch.full((3,), 2.0))


def test_meta_learning_with_parameters_that_are_no_leaves_gives_no_warning(caplog):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gradscope.attach(net, every=1, resources_every=1, hub=None, quiet=True) as scope:
            for _ in range(3):
                parameters, x = dict(net.named_parameters()), torch.randn(8, 4)
                optimizer.zero_grad()
                loss = torch.func.functional_call(net, parameters, (x,)).square().mean()
                gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
                adapted = {
                    name: p - 0.1 * g
                    for (name, p), g in zip(parameters.items(), gradients, strict=True)
                }
                torch.func.functional_call(net, adapted, (x,)).square().mean().backward()
                optimizer.step()
            assert scope.faults == {}
    assert not caplog.records
