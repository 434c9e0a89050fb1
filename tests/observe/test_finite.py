"""The quick look for NaN and infinities, against `torch.isfinite`, in both passes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.observe import find_nonfinite

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = (0, 1, 7, 31, 32, 33, 4095, 4096, 4097, 100_003)


@pytest.fixture(params=["native", "eager"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.setenv("GRADSCOPE_NATIVE", "1" if request.param == "native" else "0")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_element_is_found_wherever_it_lies(dtype, bad):
    for size in SIZES[1:]:
        for place in {0, size // 2, size - 1}:
            tensors = [torch.full((size,), torch.finfo(dtype).max, dtype=dtype) for _ in range(3)]
            tensors[1][place] = bad
            assert find_nonfinite(tensors) == [1], (size, place)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_large_small_or_empty_is_finite(dtype):
    limits = torch.finfo(dtype)
    values = [limits.max, -limits.max, limits.tiny, limits.smallest_normal / 2, 0.0, -0.0]
    whole = torch.tensor(values * 700, dtype=dtype)
    assert find_nonfinite([whole, whole[:0], whole[1:], whole[::3], whole.view(-1, 6).t()]) == []


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_it_is_what_torch_says_of_any_bits_at_any_place_in_memory(data):
    bits = data.draw(st.binary(min_size=0, max_size=300))
    dtype = data.draw(st.sampled_from(DTYPES))
    whole = torch.frombuffer(bytearray(bits[: len(bits) // 8 * 8] or b"\0" * 8), dtype=dtype)
    start, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    tensors = [whole, whole[start:], whole[::step], whole.expand(2, -1), whole.clone().requires_grad_()]
    wanted = [i for i, t in enumerate(tensors) if not bool(torch.isfinite(t).all())]
    assert find_nonfinite(tensors) == wanted


def test_nothing_is_changed_and_no_mode_of_the_processor_matters():
    tiny = torch.full((100,), 1e-40)
    before = tiny.view(torch.int32).clone()
    assert torch.set_flush_denormal(True) in (True, False)
    try:
        assert find_nonfinite([tiny, torch.full((9,), math.nan)]) == [1]
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(tiny.view(torch.int32), before)
