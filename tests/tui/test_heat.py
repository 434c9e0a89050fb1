"""Heat: the distance of a number from its own past."""

import numpy as np
import pytest

from gradscope_tui.store.heat import Heat


def warmed(count=40, spread=0.1):
    heat = Heat(1)
    for noise in np.random.default_rng(0).normal(0, spread, count):
        heat.next_levels(np.array([np.exp(noise)]))
    return heat


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, 0), (1.45, 1), (2.2, 2), (100.0, 3), (1 / 2.2, -2), (0.0, -3)]
)
def test_heat_has_levels_above_and_below(factor, expected):
    assert warmed().next_levels(np.array([factor]))[0] == expected


def test_without_a_past_nothing_is_hot():
    heat = Heat(1)
    assert [int(heat.next_levels(np.array([x]))[0]) for x in (1.0, 50.0, 1e-9)] == [0, 0, 0]


def test_a_number_not_measured_has_no_heat_and_leaves_the_past_unchanged():
    heat = warmed()
    assert heat.next_levels(np.array([np.nan]))[0] == 0
    assert heat.next_levels(np.array([1.0]))[0] == 0


def test_a_small_change_of_a_constant_number_is_not_hot():
    heat = Heat(1)
    for _ in range(20):
        heat.next_levels(np.array([3.0]))
    assert heat.next_levels(np.array([3.2]))[0] == 0
    assert heat.next_levels(np.array([6.0]))[0] == 3


def test_each_layer_has_a_past_of_its_own():
    heat = Heat(2)
    for _ in range(20):
        heat.next_levels(np.array([1.0, 1000.0]))
    assert heat.next_levels(np.array([1000.0, 1000.0])).tolist() == [3, 0]
