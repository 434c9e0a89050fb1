"""The histogram of a step: exact, compact, and refused where it does not fit."""

import dataclasses
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope import protocol
from gradscope.columns import Block
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol import HISTOGRAM_ROWS_LIMIT, Step, decode, encode
from gradscope.protocol.bodies import pack_block, unpack_block
from gradscope.protocol.bodies.histograms import HISTOGRAM_ARRAYS
from support.examples import examples

_README = Path(protocol.__file__).with_name("README.md").read_text(encoding="utf-8")

GOLDEN = {
    "columns": (
        ("layer", "u1"), ("kind", "u1"), ("positive_first", "u1"), ("negative_first", "u1"),
        ("positive_bins", "u1"), ("negative_bins", "u1"), ("bin_bytes", "u1"),
    ),
    "zero": ("flags",),
    "body": bytes.fromhex("0001 0000 2f2f 2d00 0201 0100 0201 0200 2c01 0700 05"),
}  # fmt: skip
"""The step that README.md draws, with two rows and no columns."""


def block_of(histogram):
    rows = 0 if histogram is None else len(histogram)
    none = np.zeros(rows, np.uint32)
    return Block(("out",), np.arange(rows, dtype=np.uint32), none, none.astype(np.uint8), {}, histogram)


def step_of(block, **changes):
    columns, zero, body = pack_block(block)
    fields = {"columns": columns, "zero": zero, "body": body, "rows": len(block)} | changes
    return Step(
        run="r", rank=0, seq=0, step=5, time_s=0.0, manifest_revision=0, kinds=block.kinds, **fields
    )


def sent(histogram):
    """Send a histogram through bytes."""
    return unpack_block(decode(encode(step_of(block_of(histogram))))).histogram


def drawn():
    histogram = np.zeros((2, 128), np.uint64)
    histogram[0, [47, 48, 64 + 45]] = 2, 300, 7
    histogram[1, 47] = 5
    return histogram


@st.composite
def histograms(draw):
    """Rows with a stretch of each sign, as tensors have them, and rows with anything in any bin."""
    rows = draw(st.integers(0, 8))
    counts = st.sampled_from([0, 1, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
    whole = draw(npst.arrays(np.uint64, (rows, 128), elements=counts, fill=st.just(0)))
    for row in range(rows):
        first = draw(st.integers(0, 63))
        last = draw(st.integers(first, 63))
        if draw(st.booleans()):
            whole[row] = 0
            whole[row, first : last + 1] = draw(counts)
    return whole


@given(histograms())
@examples(300)
def test_a_histogram_comes_back_as_it_was(histogram):
    came = sent(histogram)
    assert came.dtype == np.uint64
    np.testing.assert_array_equal(came, histogram)


def test_the_golden_step_has_the_bytes_that_the_document_draws():
    step = step_of(block_of(drawn()))
    assert {name: getattr(step, name) for name in GOLDEN} == GOLDEN
    (words,) = re.findall(r"^bytes {4}(2f.*)$", _README, re.MULTILINE)
    assert GOLDEN["body"] == bytes.fromhex("00010000" + words.replace("│", ""))


def test_the_golden_bytes_decode_to_the_histogram_that_the_document_draws():
    step = step_of(block_of(None), rows=2, **GOLDEN)
    np.testing.assert_array_equal(unpack_block(decode(encode(step))).histogram, drawn())


def test_the_arrays_of_the_document_are_those_of_the_code():
    section = re.search(r"^### The histogram of a step$(.*?)^#", _README, re.MULTILINE | re.DOTALL)[1]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    assert (
        tuple(name for cells in rows for name in re.findall(r"`(\w+)`", cells[0])) == HISTOGRAM_ARRAYS
    )
    assert {cells[1].strip() for cells in rows} == {"u1"}


def test_a_step_without_a_histogram_has_none_and_not_an_empty_one():
    assert sent(None) is None
    none_found = sent(np.zeros((3, 128), np.uint64))
    assert none_found.shape == (3, 128)
    assert not none_found.any()
    assert none_found.base is not None, "what was not sent takes no memory"


def test_it_does_not_affect_other_rows_and_columns(block):
    full = dataclasses.replace(block, histogram=np.ones((3, 128), np.uint64))
    came = unpack_block(decode(encode(step_of(full))))
    assert came.values.keys() == block.values.keys()
    for name, array in block.values.items():
        np.testing.assert_array_equal(came.values[name], array)
    np.testing.assert_array_equal(came.histogram, full.histogram)


def test_a_row_of_a_usual_tensor_takes_little():
    """Normal numbers, 4,096 a row: 14 binades of either sign hold all but a few."""
    chance = np.random.default_rng(0)
    rows = []
    for _ in range(200):
        x = chance.normal(0, chance.lognormal(-3, 2), 4096)
        places = np.clip(np.frexp(x)[1] + 46, 0, 63) + 64 * (x < 0)
        rows.append(np.bincount(places, minlength=128))
    histogram = np.array(rows, np.uint64)
    size = len(step_of(block_of(histogram)).body) / len(rows)
    assert size < 80
    np.testing.assert_array_equal(sent(histogram), histogram)


def test_a_step_of_too_many_rows_says_what_to_do():
    with pytest.raises(UsageError, match=r"at most 131072 rows.*got 131073.*core"):
        pack_block(block_of(np.zeros((HISTOGRAM_ROWS_LIMIT + 1, 128), np.uint64)))


def test_many_claimed_rows_without_counts_take_no_memory_and_with_counts_are_refused():
    rows = HISTOGRAM_ROWS_LIMIT + 1
    named = dict.fromkeys(HISTOGRAM_ARRAYS, "u1")
    claims = {
        "rows": rows,
        "columns": (("layer", "u1"), ("kind", "u1")),
        "zero": ("flags", *named),
        "body": bytes(2 * rows),
    }
    assert not unpack_block(step_of(block_of(None), **claims)).histogram.any()
    with_counts = {
        "columns": (*claims["columns"], *named.items()),
        "zero": ("flags",),
        "body": bytes(4 * rows) + b"\1" * (3 * rows) + b"\1" * (2 * rows),
    }
    assert "the limit is 131072" in refusal(step_of(block_of(None), **(claims | with_counts)))


def refusal(step):
    with pytest.raises(ProtocolError) as caught:
        unpack_block(decode(encode(step)))
    assert type(caught.value) is ProtocolError
    return str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "counts", "words"),
    [
        ("2f 00 01 00 01", "", "expected 1 bytes of counts, got 0"),
        ("2f 00 01 00 02", "05", "expected 2 bytes of counts, got 1"),
        ("2f 00 01 00 01", "05 06", "expected 1 bytes of counts, got 2"),
        ("00 00 00 00 00", "05", "expected 0 bytes of counts, got 1"),
        ("3f 00 02 00 01", "05 06", "must be at most 63"),
        ("ff 00 ff 00 01", "05 06", "must be at most 63"),
        ("40 00 01 00 01", "05", "must be at most 63"),
        ("00 3e 00 03 01", "05 06 07", "must be at most 63"),
        ("2f 00 01 00 03", "05 06 07", "a width other than 1, 2, 4 and 8 bytes"),
        ("2f 00 01 00 00", "", "bins and no width, or a width and no bins"),
        ("00 00 00 00 01", "", "bins and no width, or a width and no bins"),
    ],
)
def test_a_histogram_that_does_not_fit_is_refused(arrays, counts, words):
    columns = (("layer", "u1"), ("kind", "u1"), *((name, "u1") for name in HISTOGRAM_ARRAYS))
    body = bytes.fromhex("0000" + arrays + counts)
    assert words in refusal(
        step_of(block_of(None), rows=1, columns=columns, zero=("flags",), body=body)
    )


def test_a_histogram_of_which_an_array_is_missing_is_refused():
    for missing in HISTOGRAM_ARRAYS:
        named = tuple(name for name in HISTOGRAM_ARRAYS if name != missing)
        step = step_of(
            block_of(None), rows=1, columns=(("layer", "u1"), ("kind", "u1")),
            zero=("flags", *named), body=b"\0\0",
        )  # fmt: skip
        assert f"lacks the arrays ['{missing}']" in refusal(step)


def test_an_array_of_another_type_is_refused():
    named = dict.fromkeys(HISTOGRAM_ARRAYS, "u1") | {"bin_bytes": "u2"}
    step = step_of(
        block_of(None), rows=1, zero=("flags",), body=bytes(8),
        columns=(("layer", "u1"), ("kind", "u1"), *named.items()),
    )  # fmt: skip
    assert "'bin_bytes' cannot have the type 'u2'" in refusal(step)


def test_a_receiver_takes_stretches_and_counts_that_are_wider_than_they_need_to_be():
    columns = (("layer", "u1"), ("kind", "u1"), *((name, "u1") for name in HISTOGRAM_ARRAYS))
    body = bytes.fromhex("0000 2e 00 03 00 08") + np.array([0, 5, 0], "<u8").tobytes()
    step = step_of(block_of(None), rows=1, columns=columns, zero=("flags",), body=body)
    assert np.flatnonzero(unpack_block(step).histogram).tolist() == [47]


@given(st.binary(max_size=60), st.integers(0, 4))
@examples(500)
def test_random_bytes_are_a_histogram_or_refused(body, rows):
    columns = (("layer", "u1"), *((name, "u1") for name in HISTOGRAM_ARRAYS))
    step = step_of(block_of(None), rows=rows, columns=(*columns, ("kind", "u1")), zero=("flags",))
    try:
        histogram = unpack_block(msgspec.structs.replace(step, body=body)).histogram
    except ProtocolError:
        return
    assert histogram.shape == (rows, 128)


def test_every_bit_of_a_golden_body_may_flip():
    outcomes = set()
    golden = GOLDEN["body"]
    for bit in range(8 * len(golden)):
        flipped = bytearray(golden)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            unpack_block(step_of(block_of(None), rows=2, **(GOLDEN | {"body": bytes(flipped)})))
            outcomes.add(True)
        except ProtocolError:
            outcomes.add(False)
    assert outcomes == {True, False}
