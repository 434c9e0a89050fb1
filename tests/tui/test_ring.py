"""The ring of steps, against a plain dictionary of all inserted steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope_tui.store.ring import StepRing


def numbers(step, width=3):
    return {"a": np.arange(width) + 10.0 * step, "b": np.arange(width) - step}


def test_steps_are_returned_in_order_if_they_arrive_in_any_order():
    ring = StepRing(("a", "b"), 3, capacity=10)
    for step in (5, 1, 9, 3):
        assert ring.insert(step, numbers(step))
    assert ring.steps().tolist() == [1, 3, 5, 9]
    assert ring.series("a", 2).tolist() == [12, 32, 52, 92]
    assert ring.matrix("b", last=2).tolist() == [[-5, -4, -3], [-9, -8, -7]]


def test_a_duplicate_step_is_ignored():
    ring = StepRing(("a", "b"), 3, capacity=10)
    assert ring.insert(4, numbers(4))
    assert not ring.insert(4, numbers(7))
    assert ring.series("a", 0).tolist() == [40]


def test_a_full_ring_removes_the_oldest_step_and_refuses_older_ones():
    ring = StepRing(("a", "b"), 3, capacity=3)
    for step in (10, 20, 30, 40):
        ring.insert(step, numbers(step))
    assert ring.steps().tolist() == [20, 30, 40]
    assert not ring.insert(15, numbers(15))
    assert ring.insert(25, numbers(25))
    assert ring.steps().tolist() == [25, 30, 40]
    assert ring.series("a", 0).tolist() == [250, 300, 400]


def test_a_view_of_the_past_ends_at_its_step():
    ring = StepRing(("a", "b"), 3, capacity=10)
    for step in range(0, 20, 3):
        ring.insert(step, numbers(step))
    assert ring.steps(last=2, until=10).tolist() == [6, 9]
    assert ring.series("a", 1, last=2, until=9).tolist() == [61, 91]


def test_remapping_moves_columns_by_name_and_leaves_new_ones_empty():
    ring = StepRing(("a", "b"), 3, capacity=4)
    ring.insert(1, numbers(1))
    moved = ring.remapped(np.array([2, -1, 0, 1], np.intp))
    assert moved.series("a", 0).tolist() == [12]
    assert np.isnan(moved.series("a", 1)).all()
    assert moved.series("a", 3).tolist() == [11]
    assert moved.insert(2, numbers(2, 4))


def test_the_ring_allocates_its_memory_once():
    ring = StepRing(("a",), 100, capacity=50)
    data = ring._data["a"]
    for step in range(500):
        ring.insert(step, {"a": np.zeros(100)})
    assert ring._data["a"] is data
    assert len(ring) == 50


@given(st.lists(st.integers(0, 60), max_size=120), st.integers(1, 12))
def test_the_ring_equals_the_newest_entries_of_a_dictionary(steps, capacity):
    ring, kept = StepRing(("a",), 1, capacity), {}
    for place, step in enumerate(steps):
        is_old = len(kept) == capacity and step < min(kept)
        assert ring.insert(step, {"a": np.array([place])}) == (step not in kept and not is_old)
        if step not in kept and not is_old:
            kept[step] = place
            if len(kept) > capacity:
                del kept[min(kept)]
    assert dict(zip(ring.steps().tolist(), ring.series("a", 0).tolist(), strict=True)) == pytest.approx(
        kept
    )
