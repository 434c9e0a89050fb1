"""The bytes of a step, compared with a formula that takes one number after the other."""

import math
import struct
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope.columns import COLUMNS, Block
from gradscope.protocol.bodies import pack_block
from gradscope.protocol.bodies.histograms import HISTOGRAM_ARRAYS
from support.examples import examples

_COUNTS = [c.name for c in COLUMNS if c.is_count]
_FLOATS = [c.name for c in COLUMNS if not c.is_count]
_LETTERS = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f4": "f", "f8": "d"}

_WHOLE = st.sampled_from([0, 1, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1])
_NUMBERS = st.sampled_from(
    [0.0, -0.0, 1.5, 0.1, math.inf, -math.inf, math.nan, 3.4028234663852886e38, 1e39, 1e-45, 1e-46]
)


def plain_block(block):
    """What `pack_block` is to return."""
    arrays = {"layer": block.layer, "kind": block.kind, "flags": block.flags, **block.values}
    bins, counts = ({}, b"") if block.histogram is None else plain_histogram(block.histogram)
    columns, zero = [], []
    for name, array in (arrays | bins).items():
        numbers = np.asarray(array).tolist()
        if name not in ("layer", "kind") and not any(numbers):
            zero.append(name)
        else:
            columns.append((name, plain_code(name, numbers), numbers))
    columns.sort(key=lambda column: -int(column[1][1]))
    body = b"".join(struct.pack(f"<{len(x)}{_LETTERS[code]}", *x) for _, code, x in columns)
    return tuple((name, code) for name, code, _ in columns), tuple(zero), body + counts


def plain_code(name, numbers):
    if name not in _FLOATS:
        return f"u{plain_width(max(numbers, default=0)) or 1}"
    return "f4" if name in ("min", "max") and all(map(fits_float32, numbers)) else "f8"


def fits_float32(number):
    try:
        return math.isnan(number) or struct.unpack("<f", struct.pack("<f", number))[0] == number
    except OverflowError:
        return False


def plain_width(number):
    return next(width for width in (0, 1, 2, 4, 8) if number < 256**width)


def plain_histogram(histogram):
    wheres, counts = [], {8: b"", 4: b"", 2: b"", 1: b"", 0: b""}
    for row in histogram.tolist():
        width = plain_width(max(row))
        firsts, lengths = [], []
        for sign in (row[:64], row[64:]):
            used = [place for place, count in enumerate(sign) if count] or [0, -1]
            firsts.append(used[0])
            lengths.append(used[-1] + 1 - used[0])
            stretch = sign[used[0] : used[-1] + 1]
            counts[width] += b"".join(count.to_bytes(width, "little") for count in stretch)
        wheres.append((*firsts, *lengths, width))
    columns = zip(*wheres, strict=True) if wheres else [()] * 5
    return dict(zip(HISTOGRAM_ARRAYS, columns, strict=True)), b"".join(counts.values())


@st.composite
def _rows_of_bins(draw):
    """A row of 128 bins: none in use, one, a stretch with gaps, or all."""
    row = np.zeros(128, np.uint64)
    first = draw(st.integers(0, 127))
    last = draw(st.sampled_from([first - 1, first, min(first + 9, 127), 127]))
    row[first : last + 1] = draw(npst.arrays(np.uint64, last + 1 - first, elements=_WHOLE))
    return draw(st.sampled_from([row, np.full(128, draw(_WHOLE), np.uint64)]))


@st.composite
def _blocks(draw):
    rows = draw(st.integers(0, 6))
    values = {}
    for name in draw(st.permutations([*_COUNTS, *_FLOATS]))[: draw(st.integers(0, 11))]:
        is_count = name in _COUNTS
        dtype = np.uint64 if is_count else np.float64
        values[name] = draw(npst.arrays(dtype, rows, elements=_WHOLE if is_count else _NUMBERS))
    bins = draw(st.none() | st.lists(_rows_of_bins(), min_size=rows, max_size=rows))
    return Block(
        ("out", "grad"),
        draw(npst.arrays(np.uint32, rows, elements=st.sampled_from([0, 255, 256, 65_536]))),
        draw(npst.arrays(np.uint32, rows, elements=st.integers(0, 1))),
        draw(npst.arrays(np.uint8, rows, elements=st.sampled_from([0, 4, 32]))),
        values,
        None if bins is None else np.array(bins, np.uint64).reshape(rows, 128),
    )


@pytest.fixture(params=["numpy", "native"], scope="module")
def pack(request):
    """`pack_block`, with its histogram packed by NumPy and in C."""
    if request.param == "numpy":
        return pack_block
    native = pytest.importorskip("gradscope.native._native", reason="the native pass was not built")
    return partial(pack_block, pack_bins=native.pack_bins)


@given(_blocks())
@examples(400)
def test_a_block_has_the_bytes_of_the_plain_formula(pack, block):
    assert pack(block) == plain_block(block)


def _block_of(histogram):
    none = np.zeros(len(histogram), np.uint32)
    return Block(("out",), none, none, none.astype(np.uint8), {}, histogram)


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 2500])
def test_many_rows_have_the_bytes_of_the_plain_formula_at_every_border(pack, rows):
    chance = np.random.default_rng(rows)
    histogram = chance.integers(
        0, 2 ** chance.choice([1, 8, 9, 17, 33], (rows, 1)), (rows, 128), np.uint64
    )
    bins = np.arange(128) % 64
    first, last = chance.integers(0, 64, (2, rows, 1))
    histogram[(bins < first) | (bins > last)] = 0
    assert pack(_block_of(histogram)) == plain_block(_block_of(histogram))


def test_stretches_of_every_first_and_last_bin_have_the_bytes_of_the_plain_formula(pack):
    pairs = [(first, last) for first in range(64) for last in range(first, 64)]
    histogram = np.zeros((len(pairs), 128), np.uint64)
    for row, (first, last) in zip(histogram, pairs, strict=True):
        row[first : last + 1] = 7
        row[127 - last : 128 - first] = 8
    assert pack(_block_of(histogram)) == plain_block(_block_of(histogram))


@pytest.mark.parametrize("bits", range(65))
def test_the_greatest_count_of_a_row_chooses_its_width_whatever_its_length_in_bits(pack, bits):
    counts = [max((1 << bits) - 1, 0), (1 << bits) >> 1, 1]
    histogram = np.zeros((3, 128), np.uint64)
    histogram[:, 60] = counts
    assert pack(_block_of(histogram)) == plain_block(_block_of(histogram))


def test_arrays_that_do_not_lie_in_one_piece_or_are_seen_many_times_have_the_same_bytes(pack):
    table = np.arange(12, dtype=np.float64).reshape(3, 4)
    once = np.ones(1, np.uint64)
    layer = np.arange(6, dtype=np.uint32)[::2]
    values = {"sum": table[:, 1], "max": table[:, 2], "count": np.broadcast_to(once, 3)}
    histogram = np.broadcast_to(np.arange(128, dtype=np.uint64), (3, 128))
    seen = Block(("out",), layer, layer * 0, np.ones(6, np.uint8)[::2], values, histogram)
    assert pack(seen) == plain_block(seen)


def test_bins_that_are_no_whole_rows_are_refused_in_c():
    native = pytest.importorskip("gradscope.native._native", reason="the native pass was not built")
    with pytest.raises(ValueError, match="128 uint64 a row"):
        native.pack_bins(np.zeros(127, np.uint64))
    assert native.pack_bins(np.zeros((0, 128), np.uint64)) == (b"", (b"", b"", b"", b""))
