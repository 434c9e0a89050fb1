"""What a reading lays out by layer, and the shortcuts that rules take, beside the plain formula."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope.columns import Flags
from gradscope.rules import Rule, StepView, kind_of
from gradscope.rules.step_view import any_of, places_of


@settings(deadline=None)
@given(npst.arrays(st.sampled_from([np.bool_, np.uint8, np.uint64, np.float64]), st.integers(0, 9)))
def test_any_of_and_places_of_are_what_numpy_says(array):
    counts = np.abs(array)
    assert any_of(counts) == bool(counts.any())
    assert places_of(counts != 0) == np.flatnonzero(counts).tolist()


def test_a_layer_without_a_row_or_not_measured_is_nan_and_so_is_a_column_that_is_not_there(reading):
    at = reading(0, [("a", "out", {"norm": 3.0}), ("c", "out", {"norm": 4.0}), ("b", "grad", {})])
    at.block.flags[1] = Flags.NOT_MEASURED
    np.testing.assert_array_equal(at.by_layer("out", "norm"), [3.0, np.nan, np.nan])
    np.testing.assert_array_equal(at.by_layer("out", "count"), [100.0, np.nan, np.nan])
    assert at.by_layer("out", "count").dtype == np.float64
    assert np.isnan(at.by_layer("out", "zero")).all(), "not counted at core detail"


@pytest.mark.parametrize("lacking", [("nan",), ("posinf", "neginf"), ("nan", "posinf", "neginf")])
def test_nonfinite_finds_nothing_where_a_count_that_it_needs_was_not_measured(reading, lacking):
    whole = reading(0, [("a", "grad", {"nan": 1, "posinf": 1})])
    assert Rule(kind_of("nonfinite")).judge(whole)
    values = {name: array for name, array in whole.block.values.items() if name not in lacking}
    less = StepView(0, whole.layers, dataclasses.replace(whole.block, values=values))
    assert Rule(kind_of("nonfinite")).judge(less) == []


@settings(deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-8, 1e2)), min_size=1, max_size=9))
def test_layers_with_an_update_out_of_reason_are_those_of_the_plain_formula(reading, ratios):
    layers = tuple(map(str, range(len(ratios))))
    rows = [(layer, "param", {"norm": 1.0}) for layer in layers]
    rows += [(layer, "update", {"norm": ratio}) for layer, ratio in zip(layers, ratios, strict=True)]
    found = Rule(kind_of("update_ratio")).findings(reading(0, rows, layers=layers))
    moved = np.array([ratio for ratio in ratios if ratio > 0])
    usual = np.median(moved) if len(moved) else np.nan
    assert {finding.layer for finding in found if finding.layer} == {
        layer
        for layer, ratio in zip(layers, np.sqrt(np.square(ratios)), strict=True)
        if ratio > 1e-1 or (0 < ratio < 1e-5 and ratio < usual / 100)
    }
