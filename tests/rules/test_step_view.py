"""What a reading lays out by layer, and the shortcuts that rules take, compared with the plain formula."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope.columns import Flags
from gradscope.rules import Rule, StepView, rule_kind
from gradscope.rules.step_view import any_of, indices_of


@settings(deadline=None)
@given(npst.arrays(st.sampled_from([np.bool_, np.uint8, np.uint64, np.float64]), st.integers(0, 9)))
def test_any_of_and_indices_of_agree_with_numpy(array):
    counts = np.abs(array)
    assert any_of(counts) == bool(counts.any())
    assert indices_of(counts != 0) == np.flatnonzero(counts).tolist()


def test_missing_rows_unmeasured_rows_and_missing_columns_are_nan(view):
    at = view(0, [("a", "out", {"norm": 3.0}), ("c", "out", {"norm": 4.0}), ("b", "grad", {})])
    at.block.flags[1] = Flags.NOT_MEASURED
    np.testing.assert_array_equal(at.by_layer("out", "norm"), [3.0, np.nan, np.nan])
    np.testing.assert_array_equal(at.by_layer("out", "count"), [100.0, np.nan, np.nan])
    assert at.by_layer("out", "count").dtype == np.float64
    assert np.isnan(at.by_layer("out", "zero")).all(), "not counted at core detail"


@pytest.mark.parametrize("lacking", [("nan",), ("posinf", "neginf"), ("nan", "posinf", "neginf")])
def test_nonfinite_finds_nothing_if_a_needed_count_was_not_measured(view, lacking):
    whole = view(0, [("a", "grad", {"nan": 1, "posinf": 1})])
    assert Rule(rule_kind("nonfinite")).judge(whole)
    values = {name: array for name, array in whole.block.values.items() if name not in lacking}
    less = StepView(0, whole.layers, dataclasses.replace(whole.block, values=values))
    assert Rule(rule_kind("nonfinite")).judge(less) == []


@settings(deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-8, 1e2)), min_size=1, max_size=9))
def test_layers_outside_the_update_range_agree_with_the_plain_formula(view, ratios):
    layers = tuple(map(str, range(len(ratios))))
    rows = [(layer, "param", {"norm": 1.0}) for layer in layers]
    rows += [(layer, "update", {"norm": ratio}) for layer, ratio in zip(layers, ratios, strict=True)]
    found = Rule(rule_kind("update_ratio"), threshold=(1e-4, 1e-2)).findings(
        view(0, rows, layers=layers)
    )
    moved = np.array([ratio for ratio in ratios if ratio > 0])
    usual = np.median(moved) if len(moved) else np.nan
    assert {finding.layer for finding in found if finding.layer} == {
        layer
        for layer, ratio in zip(layers, np.sqrt(np.square(ratios)), strict=True)
        if ratio > 1e-1 or (0 < ratio < 1e-5 and ratio < usual / 100)
    }
