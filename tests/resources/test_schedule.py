"""Which steps are measured, and that it stays within its share."""

from itertools import pairwise

import pytest

from gradscope.resources import MeasuringSchedule


def chosen(cadence: MeasuringSchedule, steps, *, is_observed=lambda _: False, step_s=0.1, cost_s=0.01):
    found = []
    for step in steps:
        observed = is_observed(step)
        is_due = cadence.is_due(step, is_observed=observed)
        extra_s = cost_s if is_due else 0.0
        cadence.record(step, step_s + extra_s, extra_s, was_measured=is_due, was_observed=observed)
        found += [step] if is_due else []
    return found


@pytest.mark.parametrize("cost_s", [1e-4, 2e-3, 2e-2])
def test_measuring_takes_a_quarter_of_the_budget_at_most(cost_s):
    cadence = MeasuringSchedule(0.02, 0)
    found = chosen(cadence, range(20_000), cost_s=cost_s)
    spent = (
        (len(found) - 3) * cost_s / (20_000 * 0.1)
    )  # all but the first three, which find out the cost
    assert spent <= 0.02 / 4
    assert cadence.cost() <= 0.02 / 4
    assert found[:3] == [0, 2, 14]


def test_what_is_cheap_is_measured_every_ten_steps_and_no_oftener():
    found = chosen(MeasuringSchedule(0.02, 0), range(100), cost_s=1e-6)
    assert {b - a for a, b in pairwise(found[3:])} == {10}


def test_an_observed_step_is_not_idle():
    found = chosen(MeasuringSchedule(0.02, 5), range(5, 400), is_observed=lambda step: step % 2 == 1)
    assert found[0] == 5  # the first, where memory runs out
    assert all(step % 2 == 0 for step in found[1:])


def test_where_all_steps_have_statistics_one_of_them_is_measured_at_last():
    found = chosen(MeasuringSchedule(0.02, 0), range(200), is_observed=lambda _: True)
    assert len(found) > 2


@pytest.mark.parametrize("cost_s", [1e-4, 2e-3, 2e-2])
def test_where_statistics_have_no_budget_measuring_keeps_to_its_share_all_the_same(cost_s):
    cadence = MeasuringSchedule(None, 0)
    found = chosen(cadence, range(20_000), is_observed=lambda _: True, cost_s=cost_s)
    assert (len(found) - 3) * cost_s / (20_000 * 0.1) <= 0.005
    assert cadence.cost() <= 0.005


def test_exactly_every_nth_step_is_measured_if_requested():
    assert chosen(MeasuringSchedule(0.02, 2, every=3), range(2, 11), is_observed=lambda _: True) == [
        2,
        5,
        8,
    ]
    assert chosen(MeasuringSchedule(None, 0, every=1), range(4)) == [0, 1, 2, 3]


def test_a_requested_step_is_measured_whatever_it_costs():
    cadence = MeasuringSchedule(0.02, 0)
    chosen(cadence, range(30), cost_s=1.0)
    assert not cadence.is_due(30, is_observed=False)
    cadence.ask_now()
    assert chosen(cadence, range(30, 33)) == [30]
