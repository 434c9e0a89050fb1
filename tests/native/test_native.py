"""The native pass against NumPy in float64 and the eager pass, for each pass of this processor."""

import ctypes
import math
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope import native
from gradscope.columns import COLUMN_NAMES, HISTOGRAM_BINS, Table
from gradscope.observe import RowBuffer, reduce_on_host
from gradscope.observe.reduction import reduce_change_on_host
from gradscope.observe.row_buffer import room_for

pytestmark = pytest.mark.slow

_native = pytest.importorskip("gradscope.native._native", reason="the native pass was not built")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-310, 3e-7, 6e4, -6e4]
EMPTY_ROW = np.array([0.0] * (len(_native.COLUMNS) - 2) + [math.inf, -math.inf]).tobytes()
NO_BINS = bytes(8 * HISTOGRAM_BINS)


def bind(number, get_num_threads=None):
    return _native.bind(
        torch.Tensor.__dlpack_c_exchange_api__,
        torch.Tensor,
        torch.nn.Parameter,
        torch.Tensor.is_neg,
        number,
        get_num_threads,
    )


def passes():
    names = []
    try:
        while True:
            names.append(bind(len(names)))
    except IndexError:
        bind(0)
        return names


@pytest.fixture(params=range(len(passes())), ids=passes())
def each_pass(request):
    bind(request.param)
    yield
    bind(0)


def row_of(rows, row=0):
    return dict(zip(COLUMN_NAMES, np.frombuffer(rows).reshape(-1, len(COLUMN_NAMES))[row], strict=True))


def bins_of(bins, row=0):
    return np.frombuffer(bins, np.uint64).reshape(-1, HISTOGRAM_BINS)[row].tolist()


def natively(tensor):
    rows, bins = bytearray(EMPTY_ROW), bytearray(NO_BINS)
    assert _native.add(rows, bins, None, tensor, 0), "this tensor was to be read natively"
    return row_of(rows) | {"bins": bins_of(bins)}


def natively_core(tensor):
    rows = bytearray(EMPTY_ROW)
    assert _native.add(rows, None, None, tensor, 0), "this tensor was to be read natively"
    return row_of(rows)


def eagerly(record):
    return {name: getattr(record, name) for name in COLUMN_NAMES} | {"bins": record.bins.tolist()}


def reference(x, tiny):
    """The columns of a float64 array."""
    finite = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        return {
            "calls": 1,
            "count": x.size,
            "nan": np.isnan(x).sum(),
            "posinf": (x == np.inf).sum(),
            "neginf": (x == -np.inf).sum(),
            "zero": (x == 0).sum(),
            "subnormal": ((x != 0) & (np.abs(x) < tiny)).sum(),
            "sum": finite.sum(),
            "sumsq": np.square(finite).sum(),
            "min": finite.min(initial=np.inf),
            "max": finite.max(initial=-np.inf),
            "bins": reference_bins(finite[finite != 0]),
        }


def reference_bins(x):
    exponent = np.frexp(x)[1] - 1
    place = np.clip(exponent + 47, 0, 63) + 64 * (x < 0)
    return np.bincount(place, minlength=HISTOGRAM_BINS).tolist()


def assert_same(got, expected, magnitude):
    got, expected = dict(got), dict(expected)
    assert got.pop("sum") == pytest.approx(expected.pop("sum"), rel=0, abs=1e-12 * magnitude)
    assert got.pop("sumsq") == pytest.approx(expected.pop("sumsq"), rel=1e-12)
    assert got == expected


def core_of(row):
    return {name: 0 if name in ("zero", "subnormal") else row[name] for name in COLUMN_NAMES}


def magnitude_of(x):
    return np.abs(x[np.isfinite(x)]).sum()


def assert_equals_numpy(got, tensor):
    x = tensor.detach().double().numpy().ravel()
    assert_same(got, reference(x, torch.finfo(tensor.dtype).tiny), magnitude_of(x))


def sprinkled(size, dtype, seed, share):
    """Normal numbers, of many magnitudes where the seed is odd; a share replaced by special ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    if seed % 2:
        x *= torch.exp2(torch.randint(-60, 20, (size,), generator=generator).double())
    special = torch.tensor(SPECIAL, dtype=torch.float64)
    chosen = special[torch.randint(len(SPECIAL), (size,), generator=generator)]
    return torch.where(torch.rand(size, generator=generator) < share, chosen, x).to(dtype)


SIZES = st.integers(0, 70) | st.sampled_from([255, 1023, 1024, 1025, 8191, 8193, 16_400, 100_003])
SHARES = st.sampled_from([0.0, 0.0001, 0.05, 1.0])


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, max_examples=60)
@given(size=SIZES, offset=st.integers(0, 9), share=SHARES, seed=st.integers(0, 2**31))
def test_every_column_equals_numpy_and_the_eager_pass_at_any_size_and_offset(
    dtype, size, offset, share, seed
):
    tensor = sprinkled(size + offset, dtype, seed, share)[offset:]
    got = natively(tensor)
    assert_equals_numpy(got, tensor)
    assert_same(
        got, eagerly(reduce_on_host(tensor, is_full=True)), magnitude_of(tensor.double().numpy())
    )
    assert_same(natively_core(tensor), core_of(got), magnitude_of(tensor.double().numpy()))


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 6), max_size=5),
    data=st.data(),
    share=SHARES,
    seed=st.integers(0, 2**31),
)
def test_any_order_of_dims_and_any_expanded_dim_is_read_in_place(dtype, shape, data, share, seed):
    size = math.prod(shape)
    tensor = sprinkled(size, dtype, seed, share).reshape(shape)
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    if data.draw(st.booleans()):
        tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
    assert_equals_numpy(natively(tensor), tensor)


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unaligned_memory_is_read(dtype):
    tensor = sprinkled(1000, dtype, 7, 0.05)
    buffer = bytearray(1 + tensor.nbytes)
    buffer[1:] = tensor.view(torch.uint8).numpy().tobytes()
    odd = torch.frombuffer(buffer, dtype=dtype, offset=1)
    assert odd.data_ptr() % 2 == 1
    got = natively(odd)
    assert_same(got, natively(tensor), 1)


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 3, 15, 17, 1024, 2047, 8200])
def test_no_byte_outside_of_the_tensor_is_read(dtype, size):
    """The tensor touches a page without access, before it and behind it: a read beyond is a fault."""
    page, item = mmap.PAGESIZE, torch.empty(0, dtype=dtype).element_size()
    pages = -(-max(size * item, 1) // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    start = ctypes.addressof(view)
    libc = ctypes.CDLL(None, use_errno=True)
    inner = torch.frombuffer(memory, dtype=torch.uint8)[page : (pages + 1) * page].view(dtype)
    inner.copy_(sprinkled(inner.numel(), dtype, 3, 0.0))
    at_start, at_end = inner[:size], inner[inner.numel() - size :]
    expected = [natively(tensor.clone()) for tensor in (at_start, at_end)]
    for guard in (start, start + (pages + 1) * page):
        assert libc.mprotect(ctypes.c_void_p(guard), page, 0) == 0
    try:
        assert [natively(at_start), natively(at_end)] == expected
        assert natively_core(at_end)["sum"] == pytest.approx(expected[1]["sum"])
    finally:
        for guard in (start, start + (pages + 1) * page):
            assert libc.mprotect(ctypes.c_void_p(guard), page, 3) == 0


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, max_examples=30)
@given(size=SIZES, share=SHARES, seed=st.integers(0, 2**31))
def test_a_change_is_the_difference_in_float64(dtype, size, share, seed):
    before, now = sprinkled(size, dtype, seed, share), sprinkled(size, dtype, seed + 1, share)
    now[: size // 2] = before[: size // 2]
    weight = before.clone()
    rows, bins = bytearray(EMPTY_ROW * 3), bytearray(NO_BINS * 3)
    kept = np.empty(room_for([weight]), np.uint8)
    assert _native.add_each(rows, bins, None, [weight], [(0,)], kept) == []
    weight.copy_(now)
    assert _native.add_changes(rows, bins, None, [weight], [(1,)], kept) == []
    assert _native.add_changes(rows, None, None, [weight], [(2,)], kept) == []
    got = row_of(rows, 1) | {"bins": bins_of(bins, 1)}
    with np.errstate(invalid="ignore"):
        x = now.double().numpy() - before.double().numpy()
    tiny = torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).tiny
    assert_same(got, reference(x, tiny), magnitude_of(x))
    assert_same(got, eagerly(reduce_change_on_host(now, before, is_full=True)), magnitude_of(x))
    assert_same(row_of(rows, 2), core_of(got), magnitude_of(x))
    assert bins_of(bins, 2) == [0] * HISTOGRAM_BINS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_large_tensor_gives_the_same_to_the_last_bit_however_many_threads_read_it(dtype):
    weight = sprinkled(2_200_003, dtype, 8, 1e-6)
    other = sprinkled(2_200_003, dtype, 9, 0)
    answers = []
    try:
        for threads in (None, lambda: 1, lambda: 2, lambda: 5, lambda: 40):
            bind(0, threads)
            rows, bins = bytearray(EMPTY_ROW * 3), bytearray(NO_BINS * 3)
            kept = np.empty(room_for([weight]), np.uint8)
            now = weight.clone()
            assert _native.add_each(rows, bins, None, [now], [(0,)], kept) == []
            now.copy_(other)
            assert _native.add_changes(rows, bins, None, [now], [(1,)], kept) == []
            assert _native.add(rows, None, None, now, 2)
            answers.append((bytes(rows), bytes(bins), bytes(kept[16 : 16 + weight.nbytes])))
    finally:
        bind(0)
    assert answers[0][2] == weight.view(torch.uint8).numpy().tobytes()
    assert answers[1:] == answers[:1] * 4
    assert_equals_numpy(row_of(answers[0][0]) | {"bins": bins_of(answers[0][1])}, weight)


def test_pytorchs_number_of_threads_is_read_when_a_tensor_is_large():
    asked = []
    try:
        bind(0, lambda: asked.append(1) or 2)
        natively_core(torch.ones(1 << 19))
        assert not asked
        assert natively_core(torch.ones(1 << 20))["sum"] == 1 << 20
        assert asked == [1]
        bind(0, lambda: "many")  # whatever it says, the tensor is read
        assert natively_core(torch.ones(1 << 20))["sum"] == 1 << 20
    finally:
        bind(0)


_AFTER_A_FORK = """
import os, signal, sys
import torch
from gradscope import native
from gradscope.observe import RowBuffer
torch.set_num_threads(2)
tensor = torch.ones(1 << 22)
def total():
    buffer = RowBuffer()
    buffer.add(buffer.row(0, "out"), tensor)
    return buffer.read_out().block().values["sum"].tolist()
assert native.native_module() and total() == [4194304.0]
child = os.fork()
if not child:
    signal.alarm(120)  # a child that waits for threads it has not is ended
    os._exit(0 if total() == [4194304.0] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_of_a_fork_does_not_wait_for_threads_that_it_has_not():
    answer = subprocess.run(
        [sys.executable, "-c", _AFTER_A_FORK], capture_output=True, text=True, timeout=250, check=False
    )
    assert answer.returncode == 0, answer.stderr


_MANY_THREADS = """
import os, torch
from gradscope.observe import RowBuffer

def threads():
    torch.randn(1 << 22) + 1.0
    return sorted(map(int, os.listdir("/proc/self/task")))

torch.set_num_threads(40)  # more than there are parts
before = threads()
buffer = RowBuffer()
buffer.add(buffer.row(0, "out"), torch.randn(1 << 22))
assert len(before) >= 40, before
assert threads() == before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's threads are counted in /proc")
def test_none_of_pytorchs_threads_ends_when_it_has_more_than_a_tensor_has_parts():
    answer = subprocess.run(
        [sys.executable, "-c", _MANY_THREADS], capture_output=True, text=True, timeout=250, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_std_survives_a_mean_ten_thousand_times_greater():
    tensor = torch.randn(1_000_000, generator=torch.Generator().manual_seed(4)) + 1e4
    row = natively_core(tensor)
    variance = row["sumsq"] / row["count"] - (row["sum"] / row["count"]) ** 2
    assert math.sqrt(variance) == pytest.approx(tensor.double().numpy().std(), rel=1e-5)


def strange_tensors():
    imaginary = torch.randn(3, dtype=torch.complex64).conj().imag
    freed = torch.ones(3)
    freed.untyped_storage().resize_(0)
    return {
        "negative bit": imaginary,
        "complex": torch.ones(3, dtype=torch.complex64),
        "integers": torch.ones(3, dtype=torch.int32),
        "strided": torch.ones(6)[::2],
        "overlapping": torch.ones(6).as_strided((3, 3), (1, 1)),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.ones(3, device="meta"),
        "zero tensor": torch._efficientzerotensor(3),
        "freed": freed,
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "lazy": torch.nn.UninitializedParameter(),
        "no tensor": None,
    }


@pytest.mark.parametrize("name", strange_tensors())
def test_tensors_that_the_native_pass_cannot_read_go_to_the_eager_pass(name):
    rows = bytearray(EMPTY_ROW)
    assert not _native.add(rows, None, None, strange_tensors()[name], 0)
    assert rows == EMPTY_ROW


def test_tensors_of_a_function_transform_and_fake_ones_are_left_to_the_eager_pass():
    from torch._subclasses import FakeTensorMode

    def look(x):
        assert not _native.add(bytearray(EMPTY_ROW), None, None, x, 0)
        return x.sum()

    torch.func.vmap(look)(torch.ones(2, 3))
    torch.func.grad(look)(torch.ones(3))
    torch.func.functionalize(look)(torch.ones(3))
    with FakeTensorMode():
        look(torch.ones(3))


def test_reducing_leaves_tensor_gradients_and_random_state_alone():
    tensor = (torch.randn(50, requires_grad=True) * 2).transpose(0, 0)
    copy, version, state = tensor.detach().clone(), tensor._version, torch.get_rng_state()
    natively(tensor)
    assert torch.equal(tensor, copy)
    assert tensor._version == version
    assert tensor.requires_grad
    assert torch.equal(state, torch.get_rng_state())


def test_subnormals_survive_in_the_process():
    natively(torch.tensor([1e-40, 0.0, 1.0, -1e-40]))
    assert (torch.tensor(1e-40) * 0.5).item() != 0
    assert np.float32(1e-40) * np.float32(0.5) != 0


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_subnormals_are_counted_where_the_processor_flushes_them(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    tensor = torch.tensor([tiny / 4, 0.0, 1.0, -tiny / 2, -tiny, -0.0] * 7, dtype=dtype)
    expected = natively(tensor)
    assert (expected["zero"], expected["subnormal"]) == (14, 14)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        row = natively(tensor)
    finally:
        torch.set_flush_denormal(False)
    for name in ("count", "nan", "zero", "subnormal", "bins"):
        assert row[name] == expected[name]


def test_a_parameter_whose_layout_changed_is_skipped():
    weight, other = torch.ones(4, 6), torch.ones(5)
    rows, kept = bytearray(EMPTY_ROW * 2), np.empty(room_for([weight, other]), np.uint8)
    assert _native.add_each(rows, None, None, [weight, other], [(0,), (0,)], kept) == []
    weight.set_(torch.ones(6, 4))
    assert _native.add_changes(rows, None, None, [weight, other], [(1,), (1,)], kept) == [0]
    assert row_of(rows, 1)["count"] == 5


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 50), max_size=6), room=st.integers(0, 600))
def test_copies_do_not_exceed_the_given_memory(sizes, room):
    tensors = [torch.full((size,), 2.0) for size in sizes]
    targets = [(0,)] * len(sizes)
    memory = np.full(room + 64, 77, np.uint8)
    rows = bytearray(EMPTY_ROW)
    not_kept = _native.add_each(rows, None, None, tensors, targets, memory[:room])
    assert (memory[room:] == 77).all()
    assert row_of(rows)["calls"] == len(sizes) - len(not_kept)
    rows = bytearray(EMPTY_ROW)
    assert _native.add_changes(rows, None, None, tensors, targets, memory[:room]) == not_kept
    row = row_of(rows)
    assert (row["sumsq"], row["calls"]) == (0, len(sizes) - len(not_kept))


EXPONENTS = {
    "one": lambda chance, size: np.zeros(size),
    "three": lambda chance, size: chance.integers(-2, 1, size),
    "a window": lambda chance, size: chance.integers(-15, 1, size),
    "a window and its border": lambda chance, size: chance.choice([0, -15, -16], size),
    "few below a window": lambda chance, size: np.where(chance.random(size) < 0.003, -20, 0),
    "two windows": lambda chance, size: chance.integers(-31, 1, size),
    "two windows and their border": lambda chance, size: chance.choice([0, -31, -32, -33], size),
    "one far above": lambda chance, size: np.where(np.arange(size) == size // 2, 0, -30),
    "any": lambda chance, size: chance.integers(-140, 1, size),
    "normal": lambda chance, size: np.log2(np.abs(chance.normal(size=size)) + 1e-30),
    "gradients": lambda chance, size: 3 * chance.normal(size=size) - 12,
    "by blocks": lambda chance, size: chance.integers(-60, 1, size // 4096 + 1)[
        np.arange(size) // 4096
    ],
}
BLOCKS = st.sampled_from([256, 511, 512, 513, 768, 1024, 4095, 4096, 4097, 5000, 9_000, 20_480])


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", EXPONENTS)
@settings(deadline=None, max_examples=6)
@given(
    size=BLOCKS,
    top=st.sampled_from([-130, -115, -14, 0, 0, 12, 15, 16, 60, 127]),
    zeros=st.sampled_from([0.0, 0.5, 0.97]),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_exponents_are_counted_however_they_are_spread(dtype, kind, size, top, zeros, offset, seed):
    chance = np.random.default_rng(seed)
    x = (1 + 0.99 * chance.random(size + offset)) * np.exp2(
        top + EXPONENTS[kind](chance, size + offset)
    )
    x[chance.random(size + offset) < 0.1] = 2.0**top
    x *= chance.choice([-1, 1], size + offset) * (chance.random(size + offset) >= zeros)
    tensor = torch.from_numpy(x).to(dtype)[offset:]
    got, again = natively(tensor), eagerly(reduce_on_host(tensor, is_full=True))
    for name in ("zero", "subnormal", "bins", "nan", "posinf", "min", "max"):
        assert got[name] == again[name]
    if torch.isfinite(tensor).all():
        assert_equals_numpy(got, tensor)


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exponents_are_counted_where_their_spread_changes_from_block_to_block(dtype):
    """More blocks than are counted by tables before windows are tried again."""
    chance = np.random.default_rng(5)
    parts = []
    for spread in (1.0, 30.0, 1.0, 8.0, 1.0):
        x = chance.normal(size=20 * 4096) * np.exp2(spread * chance.normal(size=20 * 4096) - 20)
        parts.append(np.where(chance.random(len(x)) < 0.1, 0, x))
    tensor = torch.from_numpy(np.concatenate(parts)).to(dtype)
    tensor[50_000] = math.nan
    assert_equals_numpy(natively(tensor), tensor)


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [1.0, -0.0, -3e-5, math.inf])
def test_each_of_several_equal_numbers_is_counted(dtype, value):
    tensor = torch.full((10_001,), value, dtype=dtype)
    assert_equals_numpy(natively(tensor), tensor)


def test_bins_are_added_to_in_each_row():
    rows, bins = bytearray(EMPTY_ROW * 3), bytearray(NO_BINS * 3)
    for _ in range(2):
        assert _native.add(rows, bins, None, torch.tensor([1.0, 1.5, -4.0]).expand(5, 3), 0, 2)
    expected = [0] * HISTOGRAM_BINS
    expected[47], expected[64 + 49] = 20, 10
    assert [bins_of(bins, row) for row in range(3)] == [expected, [0] * HISTOGRAM_BINS, expected]


def test_a_wrong_call_is_an_error_and_no_crash():
    rows, ones = bytearray(EMPTY_ROW), torch.ones(2)
    for row in (1, -1, 10**30):
        with pytest.raises((IndexError, OverflowError)):
            _native.add(rows, None, None, ones, row)
    with pytest.raises(IndexError):
        _native.add(rows, bytearray(NO_BINS[1:]), None, ones, 0)
    with pytest.raises(IndexError):
        _native.add(rows, None, bytearray(7), ones, 0)
    assert rows == EMPTY_ROW
    for arguments in [
        (),
        (b"", None, None, ones, 0),
        (rows, b"", None, ones, 0),
        (rows, None, b"", ones, 0),
        (rows, True, None, ones, 0),
        (rows, None, None, ones, "0"),
        (rows, None, None, ones),
    ]:
        with pytest.raises(TypeError):
            _native.add(*arguments)
    for tensors, targets in [((ones,), [(0,)]), ([ones], ((0,),)), ([ones], [0])]:
        with pytest.raises(TypeError):
            _native.add_each(rows, None, None, tensors, targets, None)
    with pytest.raises(IndexError):
        _native.add_each(rows, None, None, [ones, ones], [(0,)], None)


def test_a_buffer_with_and_without_the_native_pass_gives_the_same_rows(monkeypatch):
    tensors = [torch.randn(3, 4), torch.randn(5).expand(2, 5), torch.tensor([math.nan, 1.0, math.inf])]
    tables = []
    for switch in ("1", "0"):
        monkeypatch.setenv("GRADSCOPE_NATIVE", switch)
        buffer = RowBuffer(is_full=True)
        for tensor in tensors:
            buffer.add(buffer.row(0, "out"), tensor, buffer.row(1, "out"))
        tables.append(Table(0, ["a", "b"], buffer.read_out().block()))
    for name in ("a", "b"):
        with_it, without = (table[name]["out"].to_dict() for table in tables)
        assert with_it == pytest.approx(without, rel=1e-12)


def test_the_pass_in_use_has_a_name(monkeypatch):
    monkeypatch.delenv("GRADSCOPE_NATIVE", raising=False)
    assert native.pass_name() in {f"native {name}" for name in passes()}
    monkeypatch.setenv("GRADSCOPE_NATIVE", "0")
    assert native.pass_name() == "eager: GRADSCOPE_NATIVE=0"
    assert native.native_module() is None


_WITHOUT_THE_EXTENSION = """
import sys
sys.modules["gradscope.native._native"] = None
import torch
from gradscope import native
from gradscope.observe import RowBuffer
buffer = RowBuffer()
buffer.add(buffer.row(0, "out"), torch.ones(3))
print(native.pass_name())
print(buffer.read_out().block().values["sum"].tolist())
"""


def test_where_the_extension_was_not_built_everything_is_measured_eagerly():
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITHOUT_THE_EXTENSION],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    name, sums = answer.stdout.splitlines()
    assert name.startswith("eager: the native pass was not built")
    assert sums == "[3.0]"
