"""Every column of every dtype, against NumPy in float64; both reductions, each in its own words."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.observe import DEVICE_COLUMNS, Unmeasurable, reduce_on_device, reduce_on_host

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-7, 6e4, -6e4, 1.0]


def on_host(tensor):
    record = reduce_on_host(tensor, is_full=True)
    return {name: float(getattr(record, name)) for name in DEVICE_COLUMNS}


def on_device(tensor):
    row = reduce_on_device(tensor, is_full=True).columns
    return dict(zip(DEVICE_COLUMNS, row.tolist(), strict=True))


BOTH = pytest.mark.parametrize("reduce", [on_host, on_device])


def reference(tensor):
    """The columns by NumPy in float64, from a copy of the elements."""
    x = tensor.detach()
    x = (x.to(torch.complex128).abs() if x.is_complex() else x.double()).numpy().ravel()
    finite = x[np.isfinite(x)]
    tiny = torch.finfo(tensor.dtype).tiny
    return {
        "count": x.size,
        "nan": np.isnan(x).sum(),
        "posinf": (x == np.inf).sum(),
        "neginf": (x == -np.inf).sum(),
        "zero": (x == 0).sum(),
        "subnormal": ((x != 0) & (np.abs(x) < tiny)).sum(),
        "sum": finite.sum(),
        "sumsq": np.square(finite).sum(),
        "min": finite.min() if finite.size else np.inf,
        "max": finite.max() if finite.size else -np.inf,
    }


def assert_equals_reference(got, tensor):
    expected = reference(tensor)
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).numpy()
    magnitude = np.abs(np.nan_to_num(wide, posinf=0, neginf=0, nan=0)).sum()
    assert got["sum"] == pytest.approx(expected.pop("sum"), rel=0, abs=1e-12 * magnitude)
    assert got["sumsq"] == pytest.approx(expected.pop("sumsq"), rel=1e-12)
    for name, value in expected.items():
        assert got[name] == value, name


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7, 5), (2, 3, 4, 5), (70_001,)], ids=str)
def test_every_column_equals_numpy_in_float64(reduce, dtype, shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert_equals_reference(reduce(tensor), tensor)


@BOTH
@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.floats(width=32) | st.sampled_from(SPECIAL), max_size=40),
)
def test_nonfinite_zero_and_subnormal_elements_are_counted_separately(reduce, dtype, values):
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    assert_equals_reference(reduce(tensor), tensor)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_specials_in_the_middle_of_a_large_tensor_are_found(reduce, dtype):
    tensor = torch.randn(100_003, generator=torch.Generator().manual_seed(2)).to(dtype)
    tensor[[3, 40_000, 99_999]] = torch.tensor([math.nan, math.inf, -math.inf]).to(dtype)
    assert_equals_reference(reduce(tensor), tensor)


@BOTH
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 2),
        lambda x: x[::2, :, 1:],
        lambda x: x[:, :1].expand(-1, 9, -1),
        lambda x: x[0, 0, 0].expand(50, 60),
        lambda x: x.unsqueeze(0).contiguous(memory_format=torch.channels_last),
        lambda x: x.flip(0),
    ],
    ids=["transposed", "strided", "expanded", "one element expanded", "channels last", "flipped"],
)
def test_any_stride_gives_the_same_numbers(reduce, view):
    tensor = view(torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(3)))
    assert_equals_reference(reduce(tensor), tensor)


@pytest.mark.parametrize("reduce", [on_host, on_device])
def test_std_survives_a_mean_ten_thousand_times_greater(reduce):
    tensor = torch.randn(1_000_000, generator=torch.Generator().manual_seed(4)) + 1e4
    row = reduce(tensor)
    variance = row["sumsq"] / row["count"] - (row["sum"] / row["count"]) ** 2
    assert math.sqrt(variance) == pytest.approx(tensor.double().numpy().std(), rel=1e-5)


@BOTH
def test_squares_that_overflow_their_dtype_do_not_overflow_here(reduce):
    assert reduce(torch.full((10,), 6e4, dtype=torch.float16))["sumsq"] == pytest.approx(
        3.6e10, rel=1e-2
    )
    assert reduce(torch.full((10,), 1e30))["sumsq"] == pytest.approx(1e61, rel=1e-5)


@BOTH
def test_a_complex_tensor_is_measured_by_magnitude_also_through_conj(reduce):
    tensor = torch.tensor([3 + 4j, 0j, 1j])
    assert reduce(tensor) == reduce(tensor.conj())
    assert reduce(tensor)["sum"] == pytest.approx(6.0)
    assert reduce(tensor)["max"] == pytest.approx(5.0)


@BOTH
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_magnitude_is_taken_in_float64_where_it_is_too_large_or_too_small_for_its_dtype(
    reduce, dtype
):
    values = [3e38 + 3e38j, 1e-39 + 0j, 1e-39j, 0j, complex(math.nan, 1.0), complex(0.0, -math.inf)]
    tensor = torch.tensor(values, dtype=torch.complex128).to(dtype)
    assert_equals_reference(reduce(tensor), tensor)


@BOTH
def test_the_negative_bit_of_a_view_is_honoured(reduce):
    imaginary = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    assert imaginary.is_neg()
    assert reduce(imaginary)["sum"] == -6.0


@BOTH
def test_a_sparse_gradient_counts_the_size_of_the_whole(reduce):
    weight = torch.zeros(10, 3, requires_grad=True)
    torch.nn.functional.embedding(torch.tensor([1, 1, 4]), weight, sparse=True).sum().backward()
    row = reduce(weight.grad)
    assert (row["count"], row["sum"], row["sumsq"]) == (30, 9.0, 15.0)
    assert row["zero"] == 24


@BOTH
def test_subnormals_are_counted_though_the_processor_flushes_them(reduce):
    tensor = torch.tensor([1e-40, 0.0, 1.0, -1e-40])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        row = reduce(tensor)
    finally:
        torch.set_flush_denormal(False)
    assert (row["zero"], row["subnormal"]) == (1, 2)


@BOTH
def test_a_tensor_without_numbers_says_so(reduce):
    with pytest.raises(Unmeasurable, match="meta"):
        reduce(torch.empty(3, device="meta"))
    with pytest.raises(Unmeasurable, match="nested"):
        reduce(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))


@BOTH
def test_a_tensor_inside_a_function_transform_says_so(reduce):
    def look(x):
        with pytest.raises(Unmeasurable, match=r"torch\.func"):
            reduce(x)
        return x.sum()

    torch.func.vmap(look)(torch.ones(3, 2))


@BOTH
def test_an_empty_tensor_gives_an_empty_record(reduce):
    row = reduce(torch.empty(0, 4))
    assert row["count"] == 0
    assert (row["min"], row["max"]) == (math.inf, -math.inf)


def test_reducing_leaves_the_tensor_and_the_random_state_alone():
    tensor = torch.randn(50, requires_grad=True) * 2
    state, version = torch.get_rng_state(), tensor._version
    reduce_on_host(tensor, is_full=True)
    reduce_on_device(tensor, is_full=True)
    assert torch.equal(state, torch.get_rng_state())
    assert tensor._version == version
    assert tensor.requires_grad
