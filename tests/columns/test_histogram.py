"""The exponent histogram: merged as it would have been counted, and missing where it was not."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope.columns import Flags, merge_ranks, merge_stats, of_both_signs, stats_of_row
from gradscope.columns.histogram import add_by_group
from support.examples import examples

_LAYERS = ("a",)


@given(
    npst.arrays(np.uint64, st.tuples(st.integers(0, 20), st.just(128))),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
@examples(100)
def test_rows_of_a_group_are_added_bin_by_bin(histograms, group_count, choose):
    groups = np.array([choose.randrange(group_count) for _ in histograms], np.intp)
    expected = np.zeros((group_count, 128), np.uint64)
    for row, group in zip(histograms, groups, strict=True):
        expected[group] += row
    np.testing.assert_array_equal(add_by_group(histograms, groups, group_count), expected)


def test_binades_are_keyed_by_exponent_and_both_signs_are_counted_together(stats_of):
    x = np.array([1.0, -1.5, 2.0, 1e-3, 0.0, np.nan, np.inf, 1e-300, -1e100])
    assert stats_of(x).binades == {-47: 1, -10: 1, 0: 2, 1: 1, 16: 1}
    assert dataclasses.replace(stats_of(x), histogram=None).binades is None


def test_both_signs_together_have_64_binades(stats_of):
    bins = np.array(stats_of(np.array([3.0, -2.0, -0.25])).histogram, np.uint64)
    together = of_both_signs(bins)
    assert together.shape == (64,)
    assert np.flatnonzero(together).tolist() == [45, 48]
    assert together[48] == 2


def test_some_rows_of_a_block_keep_their_bins(stats_of, block_of):
    rows = [stats_of(np.array([2.0**i, -1.0])) for i in range(4)]
    block = block_of(rows)
    for chosen in (np.array([False, True, False, True]), np.array([1, 3]), slice(1, None, 2)):
        part = block.taken(chosen)
        assert [stats_of_row(part, i) for i in range(len(part))] == rows[1::2]


def test_ranks_add_their_bins_and_without_those_of_one_there_are_none(stats_of, block_of):
    data = [np.random.default_rng(rank).normal(size=50) for rank in range(3)]
    parts = [(_LAYERS, block_of([stats_of(x)])) for x in data]
    _, merged = merge_ranks(parts)
    assert stats_of_row(merged, 0).histogram == stats_of(np.concatenate(data)).histogram
    core = dataclasses.replace(parts[1][1], histogram=None)
    assert merge_ranks([parts[0], (_LAYERS, core)])[1].histogram is None


@pytest.mark.parametrize("is_same", [True, False])
def test_copies_of_which_only_the_bins_differ_are_said_to_differ(stats_of, block_of, is_same):
    first = stats_of(np.array([1.0, 2.0, 4.0]))
    other = first if is_same else stats_of(np.array([1.0, 1.5, 4.0]))
    copy = dataclasses.replace(first, histogram=other.histogram, flags=Flags.REPLICA)
    _, merged = merge_ranks([(_LAYERS, block_of([first])), (_LAYERS, block_of([copy]))])
    assert stats_of_row(merged, 0).histogram == first.histogram
    assert bool(merged.flags[0] & Flags.DIFFERS) is not is_same


def test_merging_many_rows_adds_their_bins(stats_of):
    parts = [np.random.default_rng(i).normal(size=30) * 2.0**i for i in range(5)]
    whole = stats_of(np.concatenate(parts))
    assert merge_stats(map(stats_of, parts)).histogram == whole.histogram
