"""What is derived is what NumPy computes from the raw data in float64, also at the borders."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope.columns import Flags, Stats, update_ratio
from support.examples import examples

_NAMES = ("mean", "std", "rms", "norm", "absmax", "finite", "nonfinite")


def _reference(x: np.ndarray) -> dict[str, float]:
    finite = x[np.isfinite(x)].astype(np.longdouble)
    none = {"mean": math.nan, "std": math.nan, "rms": math.nan, "norm": 0.0, "absmax": math.nan}
    some = (
        none
        if not finite.size
        else {
            "mean": float(finite.mean()),
            "std": float(finite.std()),
            "rms": float(np.sqrt((finite**2).mean())),
            "norm": float(np.sqrt((finite**2).sum())),
            "absmax": float(np.abs(finite).max()),
        }
    )
    return some | {"finite": finite.size, "nonfinite": x.size - finite.size}


_ELEMENTS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(npst.arrays(np.float64, st.integers(0, 30), elements=_ELEMENTS))
@examples(300)
def test_a_row_and_a_block_derive_what_the_raw_data_give(stats_of, block_of, x: np.ndarray):
    stats, block = stats_of(x), block_of([stats_of(x)])
    reference = _reference(x)
    absmax = 0.0 if math.isnan(reference["absmax"]) else reference["absmax"]
    # Of 30 elements: a sum in float64 is off by 30 * 2^-53 of the magnitudes, a deviation by its root.
    slacks = {"mean": 1e-14 * absmax, "std": 1e-7 * absmax}
    for name in _NAMES:
        slack = slacks.get(name, 0.0)
        assert getattr(stats, name) == pytest.approx(
            reference[name], rel=1e-12, abs=slack, nan_ok=True
        ), name
        np.testing.assert_equal(block.derive(name)[0], getattr(stats, name))


@pytest.mark.parametrize("ratio", [1e0, 1e2, 1e4])
@pytest.mark.parametrize("size", [100, 1_000_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_std_is_right_to_1e_5_where_the_mean_is_up_to_ten_thousand_times_as_large(
    stats_of, ratio: float, size: int, sign: int
):
    x = (sign * ratio + np.random.default_rng(0).normal(size=size)).astype(np.float32)
    assert stats_of(x).std == pytest.approx(float(x.astype(np.longdouble).std()), rel=1e-5)


def test_std_of_equal_elements_is_zero_and_never_the_root_of_a_rounding_below_zero(stats_of):
    for value in (0.1, 1 / 3, 1e-20, 12345.678):
        std = stats_of(np.full(1_000, value)).std
        assert 0.0 <= std <= 1e-7 * value


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ([], (math.nan, math.nan, math.nan, 0.0, math.nan)),
        ([math.nan, math.nan], (math.nan, math.nan, math.nan, 0.0, math.nan)),
        ([math.inf, -math.inf, math.nan], (math.nan, math.nan, math.nan, 0.0, math.nan)),
        ([-3.0], (-3.0, 0.0, 3.0, 3.0, 3.0)),
        ([0.0], (0.0, 0.0, 0.0, 0.0, 0.0)),
        ([-0.0, math.inf], (0.0, 0.0, 0.0, 0.0, 0.0)),
        ([3.0, -4.0, math.nan], (-0.5, 3.5, math.sqrt(12.5), 5.0, 4.0)),
        ([1e20, 1e20], (1e20, 0.0, 1e20, math.sqrt(2) * 1e20, 1e20)),
    ],
    ids=str,
)
def test_the_borders_are_as_the_formulas_say(stats_of, block_of, elements: list[float], expected):
    stats = stats_of(np.array(elements, np.float64))
    for name, value in zip(("mean", "std", "rms", "norm", "absmax"), expected, strict=True):
        assert getattr(stats, name) == pytest.approx(value, rel=1e-15, nan_ok=True), name
        np.testing.assert_equal(block_of([stats]).derive(name)[0], getattr(stats, name))


def test_a_sum_of_squares_beyond_float64_gives_infinities_and_not_unknown_numbers(block_of):
    stats = Stats(
        calls=1, count=2, nan=0, posinf=0, neginf=0, sum=2e200, sumsq=math.inf, min=1e200, max=1e200
    )
    assert (stats.std, stats.rms, stats.norm) == (math.inf, math.inf, math.inf)
    assert (stats.mean, stats.absmax) == (1e200, 1e200)
    assert block_of([stats]).derive("std")[0] == math.inf


def test_a_row_that_was_not_measured_is_nan_in_everything_that_is_derived(stats_of, block_of):
    known = stats_of(np.array([1.0, 2.0]))
    unknown = Stats(0, 0, 0, 0, 0, 0.0, 0.0, math.inf, -math.inf, flags=Flags.NOT_MEASURED)
    block = block_of([known, unknown])
    for name in _NAMES:
        first, second = block.derive(name)
        assert first == getattr(known, name)
        assert math.isnan(second), name


def test_update_ratio_is_the_quotient_of_the_norms_and_unknown_where_the_parameter_is_zero():
    ratio = update_ratio(np.array([1.0, 0.0, 2.0, 0.0, 1e300]), np.array([4.0, 4.0, 0.0, 0.0, 1e-300]))
    np.testing.assert_array_equal(ratio, [0.25, 0.0, np.nan, np.nan, np.inf])
