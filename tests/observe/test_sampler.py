import pytest

from gradscope.errors import UsageError
from gradscope.observe import Sampler


def run(sampler, steps, *, bare_s, cost_s, inside_s=None):
    """Drive a sampler with known times; return the observed steps and the whole time's overhead."""
    observed = []
    for step in steps:
        is_due = sampler.is_due(step)
        observed += [step] * is_due
        inside = (cost_s if inside_s is None else inside_s) if is_due else 0.0
        sampler.record(step, bare_s + cost_s * is_due, inside, was_observed=is_due)
    return observed


@pytest.mark.parametrize("cost", [0.001, 0.03, 0.4, 2.0])
def test_the_chosen_interval_keeps_the_budget(cost):
    sampler = Sampler(budget=0.02)
    run(sampler, range(60), bare_s=1.0, cost_s=cost)
    observed = run(sampler, range(60, 1060), bare_s=1.0, cost_s=cost)
    assert len(observed) * cost <= 0.02 * 1000 * 1.1
    assert sampler.cost() == pytest.approx(cost / sampler.every)
    assert sampler.cost() <= 0.02


def test_cheap_observing_watches_nearly_every_step_and_keeps_something_to_compare_with():
    sampler = Sampler(budget=0.02)
    run(sampler, range(100), bare_s=1.0, cost_s=0.01)
    assert sampler.every == 1
    observed = run(sampler, range(100, 270), bare_s=1.0, cost_s=0.01)
    assert len(observed) == 160


def test_a_model_that_becomes_slower_where_each_step_is_observed_is_followed():
    sampler = Sampler(budget=0.02)
    run(sampler, range(100), bare_s=0.1, cost_s=0.001)
    assert sampler.every == 1
    run(sampler, range(100, 900), bare_s=1.0, cost_s=0.001)
    assert sampler.cost() == pytest.approx(0.001)


def test_a_model_that_becomes_faster_is_observed_less_often():
    sampler = Sampler(budget=0.02)
    run(sampler, range(200), bare_s=1.0, cost_s=0.125)
    assert sampler.every == 7
    run(sampler, range(200, 800), bare_s=0.125, cost_s=0.125)
    assert sampler.every == 50


def test_time_inside_the_hooks_counts_when_noise_hides_the_difference():
    sampler = Sampler(budget=0.02)
    run(sampler, range(200), bare_s=1.0, cost_s=0.0, inside_s=0.125)
    assert sampler.every == 7


def test_every_means_exactly_every_so_many_steps():
    assert run(Sampler(every=3), range(10), bare_s=1.0, cost_s=9.0) == [0, 3, 6, 9]


def test_without_a_budget_every_step_is_observed():
    assert run(Sampler(budget=None), range(5), bare_s=1.0, cost_s=9.0) == [0, 1, 2, 3, 4]


def test_the_cost_is_unknown_before_it_was_measured():
    assert Sampler().cost() is None


@pytest.mark.parametrize("arguments", [{"every": 0}, {"every": 1.5}, {"budget": 0}, {"budget": 1.0}])
def test_a_bad_budget_is_refused_at_the_door(arguments):
    with pytest.raises(UsageError, match="must be"):
        Sampler(**arguments)
