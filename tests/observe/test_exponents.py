"""The exponent histogram against NumPy's frexp on float64: on the host, on a device, on the buffer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradscope.columns import Table
from gradscope.observe import RowBuffer, reduce_on_device, reduce_on_host
from gradscope.observe.cuda.device_buffer import DeviceRowBuffer
from gradscope.observe.reduction import reduce_change_on_host

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-7, 6e4, -6e4, 1e-310, -1e300, 3e-8]
BORDERS = [s * 2.0**e * f for e in (-48, -47, -46, 15, 16, 17) for f in (1.0, 1.5) for s in (1, -1)]


@pytest.fixture
def flushing():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    yield
    torch.set_flush_denormal(False)


def on_host(tensor):
    return reduce_on_host(tensor, is_full=True).bins.tolist()


def on_device(tensor):
    return reduce_on_device(tensor, is_full=True).bins.tolist()


BOTH = pytest.mark.parametrize("bins_of", [on_host, on_device])


def expected(x):
    """The 128 bins of a float64 array: frexp gives |x| = m 2^e with 0.5 <= m < 1."""
    x = np.asarray(x, np.float64).ravel()
    x = x[np.isfinite(x) & (x != 0)]
    places = np.clip(np.frexp(x)[1] - 1 + 47, 0, 63) + 64 * (x < 0)
    return np.bincount(places, minlength=128).tolist()


def wide(tensor):
    return tensor.to(torch.complex128).abs() if tensor.is_complex() else tensor.double()


@BOTH
@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7, 5), (0, 3), (2, 3, 4, 5), (70_001,)], ids=str)
def test_every_element_is_in_the_bin_of_its_exponent_and_sign(bins_of, dtype, shape):
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(shape, generator=generator, dtype=torch.float64).mul(12).exp2()
    tensor = (torch.randn(shape, generator=generator, dtype=torch.float64) * spread).to(dtype)
    assert bins_of(tensor) == expected(wide(tensor))


@BOTH
@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.floats(width=64) | st.sampled_from(SPECIAL + BORDERS), max_size=40),
)
def test_the_ends_catch_the_rest_and_zeros_nan_and_infinities_are_in_no_bin(bins_of, dtype, values):
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    bins = bins_of(tensor)
    assert bins == expected(tensor.double())
    assert sum(bins) == int((tensor.isfinite() & (tensor != 0)).sum())


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_each_of_the_65536_numbers_of_half_precision_is_where_it_belongs(bins_of, dtype):
    tensor = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    assert bins_of(tensor) == expected(tensor.double())


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_subnormals_are_in_their_bins_though_the_processor_flushes_them(bins_of, dtype, flushing):
    least = torch.finfo(dtype).smallest_normal
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    tensor = torch.arange(1, 2**6, dtype=bits).view(dtype)
    exponents = (
        np.floor(np.log2(np.arange(1, 2**6))) + math.log2(least) + math.log2(torch.finfo(dtype).eps)
    )
    places = np.clip(exponents + 47, 0, 63).astype(int)
    assert bins_of(tensor) == np.bincount(places, minlength=128).tolist()


@BOTH
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 2),
        lambda x: x[::2, :, 1:],
        lambda x: x[:, :1].expand(-1, 9, -1),
        lambda x: x[0, 0, 0].expand(50, 60),
        lambda x: x.flip(0),
        lambda x: x.conj(),
        lambda x: torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "one expanded", "flipped", "conj", "negative bit"],
)
def test_any_stride_counts_each_element_as_often_as_it_is_seen(bins_of, view):
    tensor = view(torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(3)))
    assert bins_of(tensor) == expected(tensor.resolve_neg().double())


@BOTH
def test_what_a_sparse_tensor_does_not_store_is_in_no_bin(bins_of):
    tensor = torch.sparse_coo_tensor(
        [[1, 1, 4]], torch.tensor([1.0, 2.0, -8.0]), (10,), check_invariants=True
    )
    assert bins_of(tensor) == expected([3.0, -8.0])


@pytest.mark.parametrize("reduce", [reduce_on_host, reduce_on_device])
def test_at_core_detail_there_are_no_bins(reduce):
    assert reduce(torch.ones(3)).bins is None


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64, torch.complex128], ids=str)
def test_a_change_is_counted_by_its_float64_difference(dtype):
    generator = torch.Generator().manual_seed(5)
    before = torch.randn(33, 7, generator=generator).to(dtype)
    now = (before + 1e-3 * torch.randn(33, 7, generator=generator).to(dtype)).to(dtype)
    to = torch.complex128 if dtype.is_complex else torch.float64
    change = now.to(to) - before.to(to)
    record = reduce_change_on_host(now, before, is_full=True)
    assert record.bins.tolist() == expected(wide(change))
    assert reduce_change_on_host(now, before).bins is None


def bins_on(block, layer, kind):
    return Table(0, ["a", "b"], block)[layer][kind].histogram


@pytest.fixture(params=["eager", "native"])
def one_pass(request, monkeypatch):
    """The pass that measures CPU tensors. Where the extension was not built, both are the eager one."""
    monkeypatch.setenv("GRADSCOPE_NATIVE", "1" if request.param == "native" else "0")


@pytest.mark.usefixtures("one_pass")
def test_calls_of_one_row_add_their_bins_and_a_harvest_empties_them():
    buffer = RowBuffer(is_full=True)
    parts = [torch.randn(4, 3), torch.randn(5) * 1e-9, torch.randn(2, 2, 2) * 1e6]
    for part in parts:
        buffer.add(buffer.row(0, "out"), part, buffer.row(1, "grad"))
    readout = buffer.read_out()
    buffer.add(buffer.row(0, "out"), torch.ones(2))
    whole = expected(torch.cat([part.flatten() for part in parts]))
    for layer, kind in (("a", "out"), ("b", "grad")):
        assert list(bins_on(readout.block(), layer, kind)) == whole
    peeked = buffer.peek()
    assert peeked.histogram.sum() == 2
    block = buffer.read_out().block()
    assert list(bins_on(block, "a", "out")) == expected([1.0, 1.0])
    assert (len(block), block.histogram.shape) == (1, (1, 128))


@pytest.mark.usefixtures("one_pass")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(DTYPES),
    st.integers(0, 300) | st.sampled_from([4_095, 8_193, 70_001]),
    st.integers(0, 9),
    st.sampled_from([0.0, 0.01, 1.0]),
    st.integers(0, 2**31),
)
def test_both_passes_of_a_buffer_count_alike_at_any_size_and_offset(dtype, size, offset, share, seed):
    chance = np.random.default_rng(seed)
    x = chance.normal(size=size + offset) * 2.0 ** chance.integers(-60, 20, size + offset)
    x = np.where(chance.random(size + offset) < share, chance.choice(SPECIAL, size + offset), x)
    tensor = torch.from_numpy(x).to(dtype)[offset:]
    buffer = RowBuffer(is_full=True)
    buffer.add(buffer.row(0, "out"), tensor)
    assert list(bins_on(buffer.read_out().block(), "a", "out")) == expected(tensor.double())


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_of_tensors_and_their_changes_have_bins(dtype):
    buffer = RowBuffer(is_full=True)
    tensors = [torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (3, 5000)]
    before = [tensor.clone() for tensor in tensors]
    values, changes = ([(buffer.row(i, kind),) for i in range(2)] for kind in ("param", "update"))
    kept = np.empty(sum(23 + tensor.nbytes for tensor in tensors), np.uint8)
    not_kept = buffer.add_each(tensors, values, kept)
    for tensor in tensors:
        tensor.mul_(1.01)
    left = {*not_kept, *buffer.add_changes(tensors, changes, kept)}
    for i in left:
        buffer.add_change(changes[i], tensors[i], before[i])
    block = buffer.read_out().block()
    for i, layer in enumerate("ab"):
        assert list(bins_on(block, layer, "param")) == expected(before[i].double())
        change = tensors[i].double() - before[i].double()
        assert list(bins_on(block, layer, "update")) == expected(change)


def test_at_core_detail_a_block_has_no_histogram():
    buffer = RowBuffer()
    buffer.add(buffer.row(0, "out"), torch.ones(3))
    assert buffer.read_out().block().histogram is None


def test_rows_are_allotted_when_others_have_bins_already():
    buffer = RowBuffer(is_full=True)
    buffer.add(buffer.row(0, "out"), torch.ones(3))
    cells, bins = buffer._cells, buffer._bins
    for i in range(1, 40):
        buffer.add(buffer.row(i, "out"), torch.full((i,), 2.0))
    block = buffer.read_out().block()
    assert block.histogram.sum(axis=1).tolist() == [3, *range(1, 40)]
    assert (buffer._cells, buffer._bins) == (cells, bins)
    assert buffer._cells is cells
    assert buffer._bins is bins
    assert not any(bins)


def test_a_device_buffer_adds_its_bins_to_those_of_the_host_and_grows():
    """The buffer of another device, run on this one: the same code without a copy to wait for."""
    buffer, device = RowBuffer(is_full=True), DeviceRowBuffer(torch.device("cpu"), is_full=True)
    seeded = torch.Generator().manual_seed(0)  # now and then randn gives a zero, which is in no bin
    parts = [torch.randn(i + 1, generator=seeded) for i in range(300)]
    for i, part in enumerate(parts):
        device.add((buffer.row(i, "out"),), reduce_on_device(part, is_full=True))
    buffer.add(buffer.row(0, "out"), torch.tensor([2.0]))
    first = device.copy()
    block = buffer.read_out()._block
    device.read_out().merge_into(block)
    for i, part in enumerate(parts):
        assert block.histogram[i].tolist() == expected(torch.cat([part, torch.tensor([2.0])[i:]]))
    assert int(first.bins.sum()) == sum(len(part) for part in parts)
    assert int(device.read_out().bins.sum()) == 0
