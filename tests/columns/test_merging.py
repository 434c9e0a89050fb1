"""Merging records gives what the merged data would have given: in any order, in any grouping."""

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope.columns import COLUMNS, Flags, Merge, Stats, merge_block, merge_stats, stats_of_row
from gradscope.errors import UsageError
from support.examples import examples

_SPECIAL = st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-310])
# Whole numbers, whose float64 sums are exact in every order, and what is special about floats.
_WHOLE = st.integers(-1000, 1000).map(float) | _SPECIAL
_REAL = st.floats(-1e6, 1e6) | _SPECIAL


def _arrays(elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.float64, st.integers(0, 20), elements=elements)


def _flat(stats: Stats) -> Stats:
    """Leave the flag that says only how the record came about."""
    return dataclasses.replace(stats, flags=stats.flags & ~Flags.MERGED)


def _without_subnormals(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-300, 0.0, x)


@given(st.lists(_arrays(_WHOLE), min_size=1, max_size=6))
@examples(300)
def test_merged_records_are_the_record_of_the_merged_data(stats_of, parts: list[np.ndarray]):
    parts = [_without_subnormals(x) for x in parts]
    expected = dataclasses.replace(stats_of(np.concatenate(parts)), calls=len(parts))
    assert _flat(merge_stats(map(stats_of, parts))) == expected


@given(st.lists(_arrays(_REAL), min_size=1, max_size=6))
@examples(200)
def test_sums_of_any_numbers_merge_to_within_rounding_and_all_else_exactly(stats_of, parts):
    merged, expected = merge_stats(map(stats_of, parts)), stats_of(np.concatenate(parts))
    for column in COLUMNS:
        if column.name in ("sum", "sumsq"):
            size = math.fsum(abs(getattr(stats_of(x), column.name)) for x in parts)
            error = abs(getattr(merged, column.name) - getattr(expected, column.name))
            assert error <= len(parts) * np.finfo(np.float64).eps * size
        elif column.name != "calls":
            assert getattr(merged, column.name) == getattr(expected, column.name)


@given(st.lists(_arrays(_WHOLE), min_size=2, max_size=6), st.randoms(use_true_random=False))
@examples(100)
def test_the_order_of_merging_does_not_matter(
    stats_of, parts: list[np.ndarray], shuffle: random.Random
):
    records = [stats_of(_without_subnormals(x)) for x in parts]
    expected = merge_stats(records)
    shuffle.shuffle(records)
    assert merge_stats(records) == expected


@given(_arrays(_WHOLE), _arrays(_WHOLE), _arrays(_WHOLE))
@examples(100)
def test_the_grouping_of_merging_does_not_matter(stats_of, a: np.ndarray, b: np.ndarray, c: np.ndarray):
    a, b, c = (stats_of(_without_subnormals(x)) for x in (a, b, c))
    assert merge_stats([merge_stats([a, b]), c]) == merge_stats([a, merge_stats([b, c])])


@given(_arrays(_WHOLE))
@examples(50)
def test_merging_with_the_record_of_nothing_changes_nothing_but_the_calls(stats_of, x: np.ndarray):
    record, nothing = stats_of(x), dataclasses.replace(stats_of(np.zeros(0)), calls=0)
    assert _flat(merge_stats([record, nothing])) == record


@given(st.data(), st.lists(_arrays(_WHOLE), min_size=1, max_size=8))
@examples(150)
def test_merging_a_block_is_merging_its_rows_group_by_group(stats_of, block_of, data, parts):
    records = [stats_of(_without_subnormals(x)) for x in parts]
    group_count = data.draw(st.integers(1, 4))
    groups = data.draw(npst.arrays(np.intp, len(records), elements=st.integers(0, group_count - 1)))
    merged = merge_block(block_of(records), groups, group_count)
    assert len(merged) == group_count
    assert merged.layer.tolist() == list(range(group_count))
    for group in range(group_count):
        members = [record for record, of in zip(records, groups, strict=True) if of == group]
        if members:
            assert stats_of_row(merged, group) == merge_stats(members)
        else:
            assert not stats_of_row(merged, group).is_measured


def test_a_merged_block_keeps_the_kind_of_the_first_row_of_each_group(stats_of, block_of):
    block = block_of([stats_of(np.ones(2))] * 4, kind=[1, 0, 0, 1])
    merged = merge_block(block, np.array([1, 0, 1, 0]), 2)
    assert merged.kind.tolist() == [0, 1]
    assert merged.kinds == block.kinds


def test_merging_leaves_the_block_that_was_merged_as_it_was(stats_of, block_of):
    block = block_of([stats_of(np.arange(3.0)), stats_of(np.array([np.nan]))])
    before = {name: array.copy() for name, array in block.values.items()}
    merge_block(block, np.array([0, 0]), 1)
    for name, array in before.items():
        np.testing.assert_array_equal(block.values[name], array)


def test_one_record_merges_to_itself_and_several_are_flagged_merged(stats_of, block_of):
    record = stats_of(np.ones(3))
    assert merge_stats([record]) is record
    assert merge_stats([record, record]).flags == Flags.MERGED
    assert merge_block(block_of([record] * 3), np.array([0, 1, 1]), 2).flags.tolist() == [
        0,
        Flags.MERGED,
    ]


def test_a_part_that_was_not_measured_makes_the_whole_not_measured(stats_of, block_of):
    known = stats_of(np.ones(3))
    unknown = dataclasses.replace(stats_of(np.zeros(0)), calls=0, flags=Flags.NOT_MEASURED)
    for parts in ([known, unknown], [unknown, known]):
        assert not merge_stats(parts).is_measured
        merged = merge_block(block_of(parts), np.array([0, 0]), 1)
        assert np.isnan(merged.derive("norm")[0])


@pytest.mark.parametrize("flag", [Flags.SAMPLED, Flags.SCALED])
def test_a_flag_of_one_part_holds_for_the_whole(stats_of, block_of, flag: Flags):
    parts = [stats_of(np.ones(3)), dataclasses.replace(stats_of(np.ones(3)), flags=flag)]
    assert merge_stats(parts).flags == flag | Flags.MERGED
    assert merge_block(block_of(parts), np.array([0, 0]), 1).flags[0] == flag | Flags.MERGED


def test_a_column_that_one_part_lacks_is_not_measured_in_the_whole(stats_of):
    full, core = (
        stats_of(np.zeros(3)),
        dataclasses.replace(stats_of(np.zeros(3)), zero=None, subnormal=None, histogram=None),
    )
    for parts in ([full, core], [core, full]):
        merged = merge_stats(parts)
        assert merged.zero is None
        assert merged.subnormal is None
        assert merged.histogram is None


def test_a_column_that_a_block_lacks_is_absent_after_merging(stats_of, block_of):
    core = dataclasses.replace(stats_of(np.zeros(3)), zero=None, subnormal=None, histogram=None)
    merged = merge_block(block_of([core, core]), np.array([0, 0]), 1)
    assert "zero" not in merged.values
    assert merged.histogram is None
    assert stats_of_row(merged, 0).zero is None


def test_counts_beyond_float64_merge_exactly(stats_of, block_of):
    huge = dataclasses.replace(stats_of(np.ones(1)), count=2**62 + 1)
    assert merge_stats([huge, huge]).count == 2**63 + 2
    assert stats_of_row(merge_block(block_of([huge, huge]), np.array([0, 0]), 1), 0).count == 2**63 + 2


def test_merging_nothing_is_a_usage_error():
    with pytest.raises(UsageError, match="needs at least one row, got none"):
        merge_stats([])


def test_every_column_has_a_rule_for_merging_and_a_field_in_stats():
    fields = {field.name for field in dataclasses.fields(Stats)}
    assert fields == {column.name for column in COLUMNS} | {"flags", "histogram", "digest"}
    assert {column.name: column.merge for column in COLUMNS if not column.is_count} == {
        "sum": Merge.ADD, "sumsq": Merge.ADD, "min": Merge.MIN, "max": Merge.MAX,
    }  # fmt: skip
