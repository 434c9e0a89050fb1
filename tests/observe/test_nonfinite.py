"""The quick look for NaN and infinities, against `torch.isfinite`, in both passes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.observe import make_find_nonfinite


def found(gradients: list[torch.Tensor]) -> list[int]:
    parameters = [torch.nn.Parameter(torch.empty(g.shape, dtype=g.dtype)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    bad, elsewhere = make_find_nonfinite()(parameters)
    assert elsewhere == []
    return bad


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = (0, 1, 7, 31, 32, 33, 4095, 4096, 4097, 100_003)


@pytest.fixture(params=["native", "eager"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.setenv("GRADSCOPE_NATIVE", "1" if request.param == "native" else "0")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_element_is_found_at_every_position(dtype, bad):
    for size in SIZES[1:]:
        for place in {0, size // 2, size - 1}:
            tensors = [torch.full((size,), torch.finfo(dtype).max, dtype=dtype) for _ in range(3)]
            tensors[1][place] = bad
            assert found(tensors) == [1], (size, place)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_large_small_or_empty_is_finite(dtype):
    limits = torch.finfo(dtype)
    values = [limits.max, -limits.max, limits.tiny, limits.smallest_normal / 2, 0.0, -0.0]
    whole = torch.tensor(values * 700, dtype=dtype)
    assert found([whole, whole[:0], whole[1:], whole[::3], whole.view(-1, 6).t()]) == []


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_nonfinite_tensors_are_those_of_isfinite_for_any_bits_and_alignment(data):
    bits = data.draw(st.binary(min_size=0, max_size=300))
    dtype = data.draw(st.sampled_from(DTYPES))
    whole = torch.frombuffer(bytearray(bits[: len(bits) // 8 * 8] or b"\0" * 8), dtype=dtype)
    start, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    tensors = [whole, whole[start:], whole[::step], whole.expand(2, -1), whole.clone().requires_grad_()]
    wanted = [i for i, t in enumerate(tensors) if not bool(torch.isfinite(t).all())]
    assert found(tensors) == wanted


def test_nothing_is_changed_and_no_mode_of_the_processor_matters():
    tiny = torch.full((100,), 1e-40)
    before = tiny.view(torch.int32).clone()
    assert torch.set_flush_denormal(True) in (True, False)
    try:
        assert found([tiny, torch.full((9,), math.nan)]) == [1]
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(tiny.view(torch.int32), before)


def test_a_parameter_without_a_gradient_is_passed_over_and_one_elsewhere_is_named():
    bare, there = (torch.nn.Parameter(torch.empty(3, device=device)) for device in ("cpu", "meta"))
    there.grad = torch.empty(3, device="meta")
    assert make_find_nonfinite()([bare, there]) == ([], [])  # a meta tensor has no numbers at all


def test_sparse_gradients_are_looked_at_by_their_values():
    embedding = torch.nn.Embedding(9, 2, sparse=True)
    embedding(torch.tensor([1, 4])).sum().backward()
    assert make_find_nonfinite()([embedding.weight]) == ([], [])
    embedding.weight.grad._values()[1, 0] = math.nan
    assert make_find_nonfinite()([embedding.weight]) == ([0], [])
