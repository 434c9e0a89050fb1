"""Rows of the buffer: allotted when first asked for, kept for good, empty again after each readout."""

import numpy as np
import pytest
import torch

from gradscope.columns import COLUMN_NAMES, COLUMNS, Flags, Merge
from gradscope.observe import RowBuffer


@pytest.mark.parametrize("is_full", [False, True])
def test_rows_are_numbered_in_the_order_of_the_first_request(is_full):
    buffer = RowBuffer(is_full=is_full)
    asked = [(7, "out"), (0, "grad"), (7, "grad"), (2, "out"), (7, "out"), (0, "grad"), (5_000, "out")]
    assert [buffer.row(*each) for each in asked] == [0, 1, 2, 3, 0, 1, 4]
    for row in range(len(buffer)):
        buffer.mark_unmeasured((row,))
    block = buffer.read_out().block()
    assert block.layer.tolist() == [7, 0, 7, 2, 5_000]
    assert [block.kinds[kind] for kind in block.kind] == ["out", "grad", "grad", "out", "out"]


def test_a_layer_between_two_that_have_rows_has_none_until_it_is_requested():
    buffer = RowBuffer()
    buffer.row(9, "out")
    assert len(buffer) == 1
    assert buffer.row(4, "out") == 1
    assert len(buffer) == 2


@pytest.mark.parametrize("is_full", [False, True])
def test_a_harvest_leaves_every_row_empty_and_the_block_its_own(is_full):
    buffer = RowBuffer(is_full=is_full)
    rows = [buffer.row(layer, "out") for layer in range(200)]
    for row in rows:
        buffer.add(row, torch.full((3,), float(row + 1)))
    block = buffer.read_out().block()
    again = {name: array.copy() for name, array in block.values.items()}
    for row in rows:
        buffer.add(row, torch.full((5,), -1.0))
    second = buffer.read_out().block()
    for name, array in again.items():
        np.testing.assert_array_equal(block.values[name], array)
    assert (second.values["count"] == 5).all()
    assert (second.values["sum"] == -5.0).all()
    assert (second.values["max"] == -1.0).all()
    assert len(buffer.read_out().block()) == 0


def test_counts_are_whole_and_the_rest_float64():
    buffer = RowBuffer()
    buffer.add(buffer.row(0, "out"), torch.tensor([1.0, 2.0, float("nan")]))
    block = buffer.read_out().block()
    for column in COLUMNS:
        if column.is_core:
            expected = np.uint64 if column.is_count else np.float64
            assert block.values[column.name].dtype == expected
    assert block.flags.tolist() == [Flags.EXACT]


@pytest.mark.parametrize("is_full", [False, True])
def test_a_block_knows_what_it_takes_in_memory(is_full):
    buffer = RowBuffer(is_full=is_full)
    for layer in range(100):
        buffer.add(buffer.row(layer, "out"), torch.ones(2))
    columns = len(COLUMNS) if is_full else sum(column.is_core for column in COLUMNS)
    bins = 128 * 8 if is_full else 0
    assert buffer.read_out().block().nbytes == 100 * (4 + 4 + 1 + 8 * columns + bins)


def test_counts_come_first_then_sums_then_min_and_max():
    counts = [column.is_count for column in COLUMNS]
    assert counts == sorted(counts, reverse=True)
    merges = [column.merge for column in COLUMNS]
    assert merges == [Merge.ADD] * (len(COLUMNS) - 2) + [Merge.MIN, Merge.MAX]
    assert COLUMN_NAMES[-2:] == ("min", "max")
