"""What the Triton kernels do, run by Triton's interpreter on a CPU: `test_triton.py` starts this.

The interpreter is chosen when Triton is imported, so this needs a process of its own. It is slow.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gradscope.columns import Block, Flags
from gradscope.observe import RowBuffer
from gradscope.observe.cuda import launcher
from gradscope.observe.cuda.launcher import TritonPass, failed_pass
from gradscope.observe.cuda.tensor_memory import KINDS, memory_of
from gradscope.observe.cuda.triton_buffer import TritonRowBuffer

CPU = torch.device("cpu")
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0)

# The interpreter is made of NumPy, which warns of what a device computes in silence.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|underflow):RuntimeWarning")

slowly = settings(
    deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@pytest.fixture(autouse=True)
def kernels_ran(request, monkeypatch):
    """Fail where a kernel has failed and PyTorch's own operations gave the numbers instead."""
    monkeypatch.setattr(launcher, "_made", [])
    yield
    assert (failed_pass() is None) == ("fails" not in request.node.name), failed_pass()


def buffer_of(*, is_full=True, programs=3):
    return TritonRowBuffer(CPU, TritonPass(CPU, programs), is_full=is_full)


def block_of(device_buffer, rows, *, is_full=True):
    """Return what a device's buffer has, as the host's buffer hands it out."""
    buffer = RowBuffer(is_full=is_full)
    for i in range(rows):
        buffer.expect_gradient(buffer.row(i, "out"))
    block = buffer.read_out()._block
    device_buffer.read_out().merge_into(block)
    return block


def reference(tensors, *, changes=None):
    """Return the columns of tensors together, by NumPy in float64, and the bound of a sum's error."""
    dtype = tensors[0].dtype
    x = np.concatenate([t.double().numpy().ravel() for t in tensors])
    least_normal = torch.finfo(dtype).smallest_normal
    if changes is not None:
        x = x - np.concatenate([t.double().numpy().ravel() for t in changes])
        least_normal = torch.finfo(
            torch.float64 if dtype is torch.float64 else torch.float32
        ).smallest_normal
    clean = x[np.isfinite(x)]
    some = clean[clean != 0]
    bins = np.clip(np.frexp(some)[1] - 1 + 47, 0, 63) + np.where(some < 0, 64, 0)
    columns = {
        "calls": sum(t.numel() > 0 for t in tensors), "count": x.size, "nan": np.isnan(x).sum(),
        "posinf": np.isposinf(x).sum(), "neginf": np.isneginf(x).sum(), "zero": (x == 0).sum(),
        "subnormal": (np.abs(some) < least_normal).sum(),
        "sum": math.fsum(clean), "sumsq": math.fsum(clean * clean),
        "min": clean.min(initial=math.inf), "max": clean.max(initial=-math.inf),
    }  # fmt: skip
    bounds = {
        "sum": x.size * 2.0**-53 * math.fsum(np.abs(clean)),
        "sumsq": x.size * 2.0**-53 * columns["sumsq"],
    }
    return columns, np.bincount(bins, minlength=128), bounds


def assert_row(block: Block, row, expected, *, is_full=True):
    columns, bins, bounds = expected
    for name, value in columns.items():
        if name in block.values:
            found = block.values[name][row].item()
            assert found == pytest.approx(value, rel=1e-13, abs=bounds.get(name, 0.0)), (
                name,
                found,
                value,
            )
    assert (block.histogram is not None) == is_full
    if is_full:
        np.testing.assert_array_equal(block.histogram[row], bins)


@st.composite
def tensors(draw, dtypes=KINDS):
    """Any tensor that is read in place: of any size, place in memory, order of dims, and repeats."""
    dtype = draw(st.sampled_from(dtypes))
    size = draw(st.one_of(st.integers(0, 600), st.integers(0, 100_003)))
    offset = draw(st.integers(0, 9))
    scale = draw(st.sampled_from((1e-7, 1.0, 300.0)))
    numbers = torch.randn(
        offset + size, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    )
    memory = (numbers.double() * scale).to(dtype)
    info = torch.finfo(dtype)
    specials = torch.tensor([*SPECIAL, info.smallest_normal / 2, min(info.max, 1e150)], dtype=dtype)
    for place in draw(st.lists(st.integers(0, max(size - 1, 0)), max_size=12)) if size else ():
        memory[offset + place] = specials[place % len(specials)]
    flat = memory[offset:]
    form = draw(st.sampled_from(("flat", "transposed", "repeated")))
    if form == "transposed" and size >= 6:
        return flat[: size // 6 * 6].view(2, 3, -1).permute(2, 0, 1)
    return flat[:, None].expand(-1, 3) if form == "repeated" and size < 1000 else flat


@settings(slowly, max_examples=48)
@given(tensor=tensors(), programs=st.integers(1, 5))
@example(tensor=torch.empty(0), programs=2)
@example(tensor=torch.tensor(-2.5), programs=1)
@example(tensor=torch.full((700,), math.nan, dtype=torch.float16), programs=2)
def test_every_column_is_that_of_numpy(tensor, programs):
    check_every_column(tensor, programs)


def check_every_column(tensor, programs):
    expected = reference([tensor])
    for is_full in (False, True):
        buffer = buffer_of(is_full=is_full, programs=programs)
        assert buffer.reduce(tensor, (1,))
        block = block_of(buffer, 2, is_full=is_full)
        assert_row(block, 1, expected, is_full=is_full)
        assert block.values["count"][0] == 0


@pytest.mark.parametrize("dtype", KINDS)
def test_the_largest_of_these_tensors_is_measured(dtype):
    tensor = torch.randn(100_003, generator=torch.Generator().manual_seed(3)).to(dtype)
    buffer = buffer_of(is_full=False)
    buffer.reduce(tensor, (0,))
    assert_row(block_of(buffer, 1, is_full=False), 0, reference([tensor]), is_full=False)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("size", [1, 15, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025, 4097])
def test_no_element_is_left_out_or_counted_twice_at_the_borders_of_blocks(dtype, size):
    tensor = torch.arange(size, dtype=torch.float64).remainder(97).add(1).to(dtype)
    buffer = buffer_of()
    buffer.reduce(tensor, (0,))
    assert_row(block_of(buffer, 1), 0, reference([tensor]))


def test_one_reduction_is_added_to_any_number_of_rows():
    buffer, parts = buffer_of(is_full=True), [torch.randn(700), torch.randn(3, 5)]
    for part in parts:
        buffer.reduce(part, (0, 2, 3, 4, 5, 7))
    block = block_of(buffer, 8)
    for row in (0, 2, 3, 4, 5, 7):
        assert_row(block, row, reference(parts))
    assert block.values["count"][[1, 6]].tolist() == [0, 0]


def test_what_cannot_be_read_in_place_is_measured_all_the_same():
    buffer, numbers = buffer_of(), torch.randn(40, 6)
    others = [
        numbers[:, ::2],
        numbers.to_sparse(),
        torch.complex(numbers, numbers),
        numbers.to(torch.int32),
    ]
    assert [memory_of(other) for other in others] == [None] * 4
    for row, other in enumerate(others):
        buffer.reduce(other, (row,))
    block = block_of(buffer, 4)
    assert_row(block, 0, reference([numbers[:, ::2]]))
    assert_row(block, 1, reference([numbers]))
    assert_row(block, 2, reference([torch.complex(numbers, numbers).to(torch.complex128).abs()]))
    assert_row(block, 3, reference([numbers.to(torch.int32).float()]))


def test_a_negated_view_holds_other_numbers_in_memory_and_is_not_read_there():
    negated = torch.complex(torch.ones(3), torch.ones(3)).conj().imag
    assert negated.is_neg()
    assert memory_of(negated) is None


@pytest.mark.parametrize("is_full", [True, False])
def test_many_tensors_are_reduced_together_as_one_by_one(is_full):
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(n, generator=generator).to(d) for d in KINDS for n in (700, 3)]
    given[0] = torch.randn(40_001, generator=generator, dtype=torch.float64)  # more than one item
    given += [torch.empty(0), torch.randn(9)[1:], torch.randn(4, 6).t(), torch.randn(8)[::2]]
    given[0][40_000] = math.nan
    targets = [(row, len(given)) for row in range(len(given))]
    buffer = buffer_of(is_full=is_full)
    for _ in range(2):
        queued = buffer.reduce_each(given, targets)
        assert queued == set(range(len(given))) - {len(given) - 1, len(given) - 4}
        block = block_of(buffer, len(given) + 1, is_full=is_full)
        for place in queued:
            expected = reference([given[place]])
            assert_row(block, place, expected, is_full=is_full)
        assert block.values["calls"][len(given)] == len(queued)
        assert block.values["nan"][len(given)] == 1
        given = [tensor.clone() for tensor in given[:-1]] + given[-1:]


@pytest.mark.parametrize("dtype", KINDS)
def test_a_change_is_the_difference_in_float64(dtype):
    generator = torch.Generator().manual_seed(2)
    before = [torch.randn(n, generator=generator).to(dtype) for n in (5, 2_003)]
    now = [b + 1e-3 * torch.randn(b.shape, generator=generator).to(dtype) for b in before]
    now[1][:4] = torch.tensor([math.nan, math.inf, 0.0, -1e-4]).to(dtype)
    before[1][:4] = torch.tensor([1.0, 1.0, 0.0, -1e-4]).to(dtype)
    buffer = buffer_of()
    assert buffer.reduce_each(now, [(0,), (1,)], before) == {0, 1}
    block = block_of(buffer, 2)
    for row in range(2):
        assert_row(block, row, reference([now[row]], changes=[before[row]]))


def test_a_change_of_what_lies_otherwise_than_before_is_left_to_others():
    now, before = torch.randn(4, 6), torch.randn(6, 4).t()
    assert buffer_of().reduce_each([now], [(0,)], [before]) == set()


def test_rows_are_not_moved_when_the_buffer_grows():
    buffer = buffer_of(is_full=False)
    buffer.reduce(torch.ones(3), (0,))
    first = buffer._segments[0].data_ptr()
    for row in (1023, 1024, 5000):
        buffer.reduce(torch.full((2,), float(row)), (row, 0))
    assert buffer._segments[0].data_ptr() == first
    block = block_of(buffer, 5001, is_full=False)
    assert block.values["sum"][[0, 1023, 1024, 5000]].tolist() == [3 + 2 * 7047, 2046, 2048, 10000]


def test_a_harvest_keeps_its_numbers_until_it_was_read_and_its_memory_is_taken_again():
    buffer = buffer_of(is_full=False)
    readouts = []
    for step in range(3):
        buffer.reduce(torch.full((2,), float(step)), (0,))
        readouts.append(buffer.read_out())
    memory = {readout.landing.segments[0].data_ptr() for readout in readouts}
    assert len(memory) == 3
    for step, readout in enumerate(readouts):
        assert readout.is_ready()
        block = block_of(buffer_of(is_full=False), 1, is_full=False)
        readout.merge_into(block)
        assert block.values["sum"][0] == 2 * step
    assert buffer.read_out().landing.segments[0].data_ptr() in memory


def test_peeking_at_a_step_in_progress_changes_nothing():
    buffer = buffer_of(is_full=False)
    buffer.reduce(torch.ones(5), (0,))
    for _ in range(2):
        host = RowBuffer()
        host.expect_gradient(host.row(0, "out"))
        block = host.peek()
        buffer.copy().merge_into(block)
        assert block.values["count"].tolist() == [5]
    assert block.flags.tolist() == [Flags.NOT_MEASURED]


def test_a_kernel_that_fails_is_reported_and_the_numbers_come_the_other_way(monkeypatch):
    buffer = buffer_of()
    tensor = torch.randn(50)
    kernels = buffer._pass._ready()
    monkeypatch.setattr(kernels, "reduce_one", None)
    for _ in range(3):
        assert buffer.reduce(tensor, (0,))
    assert buffer.reduce_each([tensor], [(1,)]) == set()
    assert_row(block_of(buffer, 2), 0, reference([tensor] * 3))
    assert "TypeError" in buffer._pass.failure
    assert isinstance(failed_pass(), TypeError)
