"""A block refuses what does not fit, and says "not measured" where nothing is known."""

import dataclasses

import numpy as np
import pytest

from gradscope.columns import Block, Flags, stats_of_row
from gradscope.errors import NotMeasuredError, UsageError

_ONE = np.zeros(1, np.uint32)
_BYTE = np.zeros(1, np.uint8)


def test_a_row_reads_back_as_its_record(stats_of, block_of):
    rows = [stats_of(np.array([1.0, np.nan, -np.inf])), stats_of(np.zeros(4, np.float32))]
    block = block_of(rows)
    assert len(block) == 2
    assert [stats_of_row(block, i) for i in range(2)] == rows


def test_the_flags_of_a_row_are_kept(stats_of, block_of):
    row = dataclasses.replace(stats_of(np.ones(1)), flags=Flags.SAMPLED | Flags.SCALED)
    assert stats_of_row(block_of([row]), 0).flags == Flags.SAMPLED | Flags.SCALED


def test_a_column_that_was_not_measured_is_nan_and_an_unknown_name_is_a_usage_error(stats_of, block_of):
    block = block_of([dataclasses.replace(stats_of(np.ones(3)), zero=None)])
    assert np.isnan(block.column("zero")).all()
    assert block.column("count").tolist() == [3.0]
    with pytest.raises(UsageError, match=r"unknown column 'zeros'; expected one of .*'zero'"):
        block.column("zeros")


def test_an_unknown_statistic_is_a_usage_error_with_the_known_ones(stats_of, block_of):
    with pytest.raises(UsageError, match=r"nothing derives 'median'; expected one of .*'mean'.*'std'"):
        block_of([stats_of(np.ones(3))]).derive("median")


def test_a_row_without_a_core_column_is_not_measured(stats_of, block_of):
    whole = block_of([stats_of(np.ones(3))])
    values = {name: array for name, array in whole.values.items() if name not in ("min", "sumsq")}
    part = Block(whole.kinds, whole.layer, whole.kind, whole.flags, values)
    with pytest.raises(NotMeasuredError, match=r"^the columns \['min', 'sumsq'\] were not measured"):
        stats_of_row(part, 0)
    assert np.isnan(part.derive("norm")).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((_ONE, _ONE, _BYTE, {"mood": _ONE}), "unknown column 'mood'; expected one of"),
        ((_ONE, _ONE, _BYTE, {"sum": np.zeros(2)}), r"column 'sum' has shape \(2,\), expected \(1,\)"),
        ((_ONE, _ONE, _BYTE, {"sum": np.zeros((1, 1))}), r"has shape \(1, 1\), expected \(1,\)"),
        ((_ONE, np.zeros(2, np.uint32), _BYTE, {}), r"must all have shape \(1,\)"),
        ((_ONE, _ONE, np.zeros(0, np.uint8), {}), r"must all have shape \(1,\)"),
        (
            (_ONE, _ONE, _BYTE, {}, np.zeros((1, 64), np.uint64)),
            r"histogram has shape \(1, 64\), expected \(1, 128\)",
        ),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(arguments, words: str):
    with pytest.raises(UsageError, match=words):
        Block(("out",), *arguments)
