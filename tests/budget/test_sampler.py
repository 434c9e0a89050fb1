"""The sampler against a synthetic clock: known times go in, and what it makes of them is compared."""

import itertools
import random
import statistics

import pytest

from gradscope.budget import Sampler
from gradscope.errors import UsageError

BUDGET = 0.02


def run(sampler, steps, *, bare_s, cost_s, inside_s=None, idle_s=0.0, noise=0.0, stalls=0.0, seed=0):
    """Drive a sampler with known times; return the observed steps and the whole time's overhead.

    noise: the deviation of the step time, as a part of it. stalls: how often a step takes five times
    as long.
    """
    chance = random.Random(seed)
    observed, taken_s, bare_sum_s = [], 0.0, 0.0
    for step in steps:
        is_due = sampler.is_due(step)
        observed += [step] * is_due
        own_s = bare_s * max(1 + chance.gauss(0, noise), 0.3) * (5 if chance.random() < stalls else 1)
        time_s = own_s + idle_s + cost_s * is_due
        inside = (cost_s if inside_s is None else inside_s) * is_due
        sampler.record(step, time_s, idle_s + inside, was_observed=is_due)
        taken_s += time_s
        bare_sum_s += own_s
    return observed, taken_s / bare_sum_s - 1


@pytest.mark.parametrize("cost", [0.001, 0.03, 0.4, 2.0])
def test_the_chosen_interval_keeps_the_budget(cost):
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(60), bare_s=1.0, cost_s=cost)
    observed, overhead = run(sampler, range(60, 1060), bare_s=1.0, cost_s=cost)
    assert overhead <= BUDGET + 1e-9
    assert sampler.cost() == pytest.approx(8 * cost / (observed[-1] - observed[-9]))
    assert sampler.cost() <= BUDGET


@pytest.mark.parametrize(("cost", "count"), [(0.03, 20), (0.4, 20), (2.0, 12)])
def test_the_first_steps_are_observed_if_the_budget_of_a_thousand_steps_pays_for_them(cost, count):
    sampler = Sampler(budget=BUDGET, first_steps=20)
    observed, overhead = run(sampler, range(8000), bare_s=1.0, cost_s=cost)
    assert observed[:count] == list(range(count))
    assert count + 1 not in observed  # step 20 is the second of every tenth step
    assert overhead <= 1.05 * BUDGET


def test_steps_that_are_requested_after_the_first_steps_are_observed_too():
    sampler = Sampler(budget=BUDGET, first_steps=20)
    run(sampler, range(40), bare_s=1.0, cost_s=0.4)
    sampler.request_steps(10)
    observed, overhead = run(sampler, range(40, 8040), bare_s=1.0, cost_s=0.4)
    assert observed[:10] == list(range(40, 50))
    assert overhead <= 1.05 * BUDGET


@pytest.mark.parametrize(("cost", "least"), [(0.001, 1), (0.03, 2), (0.4, 20), (2.0, 100)])
def test_after_fifty_steps_it_has_found_the_least_interval_that_keeps_the_budget(cost, least):
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(50), bare_s=1.0, cost_s=cost)
    assert sampler.every == least


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cost", [0.03, 0.4])
def test_noise_and_stalls_do_not_lead_it_astray(cost, seed):
    noisy = {"noise": 0.15, "stalls": 0.05, "seed": seed}
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(100), bare_s=1.0, cost_s=cost, inside_s=0.8 * cost, **noisy)
    observed, overhead = run(
        sampler, range(100, 3100), bare_s=1.0, cost_s=cost, inside_s=0.8 * cost, **noisy
    )
    ideal = cost / BUDGET
    interval = statistics.fmean(after - before for before, after in itertools.pairwise(observed))
    assert overhead <= 1.25 * BUDGET
    assert 0.75 * ideal <= interval <= 2.5 * max(ideal, 1)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("before_s", "after_s"), [(1.0, 10.0), (10.0, 1.0)])
def test_a_tenfold_change_of_pace_is_followed_within_fifty_steps(before_s, after_s, noise):
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(300), bare_s=before_s, cost_s=0.4, noise=noise)
    assert sampler.every == pytest.approx(0.4 / (BUDGET * before_s), rel=0.25, abs=1)
    run(sampler, range(300, 350), bare_s=after_s, cost_s=0.4, noise=noise, seed=1)
    assert sampler.every == pytest.approx(0.4 / (BUDGET * after_s), rel=0.5, abs=1)
    _, overhead = run(sampler, range(350, 1350), bare_s=after_s, cost_s=0.4, noise=noise, seed=2)
    assert overhead <= 1.1 * BUDGET


def test_the_cost_of_idle_steps_is_counted():
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(100), bare_s=1.0, cost_s=0.1, idle_s=0.01)
    _, overhead = run(sampler, range(100, 1100), bare_s=1.0, cost_s=0.1, idle_s=0.01)
    assert sampler.every == 10  # 0.01 + 0.1 / 10 = 0.02, and 0.01 is left for observed steps
    assert overhead == pytest.approx(sampler.cost(), rel=0.02)
    assert overhead <= BUDGET + 1e-9


def test_a_budget_that_idle_steps_use_up_is_reported_as_exceeded():
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(100), bare_s=1.0, cost_s=0.1, idle_s=0.05)
    assert sampler.cost() > 0.05
    assert sampler.every == 20  # a quarter of the budget goes to observed steps all the same


def test_the_cost_of_other_measurements_is_part_of_the_budget():
    sampler = Sampler(budget=BUDGET)
    sampler.set_aside(0.01)
    run(sampler, range(100), bare_s=1.0, cost_s=0.1)
    assert sampler.every == 10
    assert sampler.cost() == pytest.approx(0.02)


def test_cheap_observing_watches_nearly_every_step_and_keeps_something_to_compare_with():
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(100), bare_s=1.0, cost_s=0.01)
    assert sampler.every == 1
    observed, _ = run(sampler, range(100, 270), bare_s=1.0, cost_s=0.01)
    assert len(observed) == 160


def test_time_inside_the_hooks_counts_when_noise_hides_the_difference():
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(200), bare_s=1.0, cost_s=0.0, inside_s=0.125)
    assert sampler.every == 7


def test_every_means_exactly_every_nth_step():
    observed, _ = run(Sampler(every=3), range(10), bare_s=1.0, cost_s=9.0)
    assert observed == [0, 3, 6, 9]


@pytest.mark.parametrize("options", [{"every": 1}, {"budget": None}])
def test_every_step_is_observed_if_each_is_requested(options):
    observed, _ = run(Sampler(**options), range(5, 205), bare_s=1.0, cost_s=9.0)
    assert observed == list(range(5, 205))


def test_requested_steps_are_observed_at_any_cost():
    sampler = Sampler(every=100)
    run(sampler, range(10), bare_s=1.0, cost_s=1.0)
    sampler.request_steps(3)
    observed, _ = run(sampler, range(10, 20), bare_s=1.0, cost_s=1.0)
    assert observed == [10, 11, 12]


@pytest.mark.parametrize("cost", [0.4, 2.0])
def test_extra_steps_are_taken_off_later_observed_steps(cost):
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(100), bare_s=1.0, cost_s=cost)
    sampler.request_steps(10)
    observed, overhead = run(sampler, range(100, 3100), bare_s=1.0, cost_s=cost)
    assert observed[:10] == list(range(100, 110))
    assert overhead <= BUDGET * 1.01


def test_extra_steps_that_are_wanted_again_and_again_stay_within_the_budget():
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(100), bare_s=1.0, cost_s=2.0)
    for begin in range(100, 8100, 30):
        sampler.request_steps(10)
        run(sampler, range(begin, begin + 30), bare_s=1.0, cost_s=2.0)
    spent_s = 0.0
    for begin in range(8100, 20100, 30):
        sampler.request_steps(10)
        observed, _ = run(sampler, range(begin, begin + 30), bare_s=1.0, cost_s=2.0)
        spent_s += 2.0 * len(observed)
    assert spent_s / 12_000 <= BUDGET * 1.05


def test_the_cost_is_that_of_the_steps_that_were_observed():
    sampler = Sampler(budget=BUDGET)
    run(sampler, range(100), bare_s=1.0, cost_s=0.4)
    sampler.request_steps(9)
    run(sampler, range(100, 109), bare_s=1.0, cost_s=0.4)
    assert sampler.cost() == pytest.approx(0.4)


def test_ranks_of_different_speed_that_adopt_the_same_observe_the_same_steps():
    ranks = [Sampler(budget=BUDGET, is_shared=True) for _ in range(2)]
    observed = [[], []]
    for begin, end in [(0, 60), (60, 200), (200, 300)]:
        for i, sampler in enumerate(ranks):
            observed[i] += run(sampler, range(begin, end), bare_s=1.0 + i, cost_s=0.2 * (1 + 3 * i))[0]
        for sampler in ranks:
            sampler.adopt(ranks[0].wanted, end + 3)
    assert observed[0] == observed[1]
    assert ranks[0].wanted != ranks[1].wanted


def test_the_cost_is_unknown_before_it_was_measured():
    assert Sampler().cost() is None


@pytest.mark.parametrize("arguments", [{"every": 0}, {"every": 1.5}, {"budget": 0}, {"budget": 1.0}])
def test_a_bad_budget_is_refused_at_once(arguments):
    with pytest.raises(UsageError, match="must be"):
        Sampler(**arguments)


def run_with_focus(sampler, steps, *, bare_s, cost_s, close_s, noise=0.0, seed=0):
    """As `run`, with focus steps; return the observed steps, the focus steps, and the overhead."""
    chance = random.Random(seed)
    observed, focus_steps, taken_s, bare_sum_s = [], [], 0.0, 0.0
    for step in steps:
        is_due = sampler.is_due(step)
        is_close = not is_due and sampler.is_focus_due(step)
        observed += [step] * is_due
        focus_steps += [step] * is_close
        own_s = bare_s * max(1 + chance.gauss(0, noise), 0.3)
        spent_s = cost_s * is_due + close_s * is_close
        sampler.record(step, own_s + spent_s, spent_s, was_observed=is_due, was_focus=is_close)
        taken_s += own_s + spent_s
        bare_sum_s += own_s
    return observed, focus_steps, taken_s / bare_sum_s - 1


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(
    ("cost", "close", "gain"), [(0.4, 0.01, 18), (0.4, 0.05, 3.5), (2.0, 0.05, 15), (0.1, 0.003, 4.7)]
)
def test_a_focus_keeps_the_budget_and_whole_steps_half_of_their_rate(cost, close, gain, noise):
    sampler = Sampler(budget=BUDGET)
    costs = {"bare_s": 1.0, "cost_s": cost, "close_s": close, "noise": noise}
    run_with_focus(sampler, range(300), **costs)
    alone, none, _ = run_with_focus(sampler, range(300, 2300), **costs)
    assert none == []
    sampler.focus(close / cost)
    run_with_focus(sampler, range(2300, 2600), **costs, seed=1)
    observed, focus_steps, overhead = run_with_focus(sampler, range(2600, 4600), **costs, seed=2)
    assert overhead <= (1.1 if noise else 1.001) * BUDGET
    assert len(observed) >= (0.45 if noise else 0.49) * len(alone)
    assert (len(observed) + len(focus_steps)) / len(alone) >= (0.7 if noise else 1) * gain
    if not noise:
        assert sampler.cost() == pytest.approx(
            cost / sampler.every + close / sampler.focus_every, rel=1e-3
        )
        assert sampler.focus_cost() == pytest.approx(close / sampler.focus_every, rel=1e-3)
        assert sampler.focus_cost() <= 0.5 * BUDGET + 1e-9


def test_a_focus_that_gains_nothing_is_measured_seldom_and_taken_up_when_it_has_become_cheap():
    sampler = Sampler(budget=BUDGET)
    costs = {"bare_s": 1.0, "cost_s": 0.2, "close_s": 0.2}
    run_with_focus(sampler, range(200), **costs)
    sampler.focus(0.1)
    run_with_focus(sampler, range(200, 800), **costs)
    assert (sampler.every, sampler.focus_every) == (12, 80)
    _, _, overhead = run_with_focus(sampler, range(800, 2000), **costs)
    assert overhead <= BUDGET + 1e-9
    run_with_focus(sampler, range(2000, 4000), **costs | {"close_s": 0.01})
    assert sampler.focus_every == 1


def test_no_focus_step_is_taken_while_the_cost_of_observed_steps_is_unknown():
    sampler = Sampler(budget=BUDGET)
    sampler.focus(0.01)
    _, focus_steps, _ = run_with_focus(sampler, range(20), bare_s=1.0, cost_s=0.4, close_s=0.004)
    assert focus_steps == []
    assert sampler.focus_cost() == 0.0
    _, focus_steps, _ = run_with_focus(sampler, range(20, 100), bare_s=1.0, cost_s=0.4, close_s=0.004)
    assert len(focus_steps) > 20


@pytest.mark.parametrize("options", [{"every": 7}, {"budget": None}])
def test_without_a_budget_a_focus_is_measured_in_every_step(options):
    sampler = Sampler(**options)
    sampler.focus(0.01)
    observed, focus_steps, _ = run_with_focus(sampler, range(70), bare_s=1.0, cost_s=9.0, close_s=1.0)
    assert sorted(observed + focus_steps) == list(range(70))
    assert observed == list(range(0, 70, options.get("every", 1)))
    assert sampler.cost() > 0
    sampler.focus(0.0)
    _, focus_steps, _ = run_with_focus(sampler, range(70, 140), bare_s=1.0, cost_s=9.0, close_s=1.0)
    assert (focus_steps, sampler.focus_every) == ([], 0)


def test_with_the_end_of_a_focus_whole_steps_have_their_rate_again():
    sampler = Sampler(budget=BUDGET)
    costs = {"bare_s": 1.0, "cost_s": 0.4, "close_s": 0.02}
    run_with_focus(sampler, range(200), **costs)
    sampler.focus(0.05)
    run_with_focus(sampler, range(200, 600), **costs)
    assert sampler.every > 20
    sampler.focus(0.0)
    _, focus_steps, _ = run_with_focus(sampler, range(600, 800), **costs)
    assert (sampler.every, focus_steps) == (20, [])


def test_ranks_take_focus_steps_in_the_same_steps_once_they_have_adopted_the_same():
    ranks = [Sampler(budget=BUDGET, is_shared=True) for _ in range(2)]
    taken = [[], []]
    for begin, end in [(0, 100), (100, 200), (200, 400)]:
        for i, sampler in enumerate(ranks):
            if begin == 100:
                sampler.focus(0.05)
            costs = {"bare_s": 1.0 + i, "cost_s": 0.4 * (1 + i), "close_s": 0.02 * (1 + 3 * i)}
            observed, focus_steps, _ = run_with_focus(sampler, range(begin, end), **costs)
            taken[i] += [(step, "whole") for step in observed] + [(s, "close") for s in focus_steps]
        for sampler in ranks:
            sampler.adopt(ranks[0].wanted, end, ranks[0].wanted_focus)
    assert taken[0] == taken[1]
    assert any(kind == "close" for _, kind in taken[0])
