"""All consumers together stay within the budget, in a simulated training with a synthetic clock."""

import itertools

import pytest

from gradscope.agent.flight_recorder.active_steps import ActiveSteps
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule
from gradscope.budget import Budget, Consumer, RateLimit, Sampler, interval
from gradscope.budget.budget import RECORDER_RUN
from gradscope.resources import MeasuringSchedule

FRACTION = 0.02
STEPS, WARM = 20_000, 4_000


class Training:
    """A training with the step time `step_s`, in which each consumer has its own cost, on a clock of its own."""

    def __init__(self, step_s, *, observe_s, resources_s, check_s, rules_s, recorder_s):
        self.now_s = 0.0
        self.step_s, self.observe_s, self.resources_s = step_s, observe_s, resources_s
        self.check_s, self.rules_s, self.recorder_s = check_s, rules_s, recorder_s
        self.sampler = Sampler(budget=FRACTION)
        self.resources = MeasuringSchedule(FRACTION, 0)
        self.check = CheckSchedule(self.sampler)
        self.rules = RateLimit(Budget(FRACTION).share(Consumer.RULES), lambda: self.now_s)
        self.recorder = ActiveSteps(self.sampler, 0)
        self.next_check = 0
        self.spent_s = dict.fromkeys(Consumer, 0.0)

    def spend(self, consumer, time_s):
        self.spent_s[consumer] += time_s
        self.now_s += time_s
        return time_s

    def step(self, step):
        began_s = self.now_s
        if step >= self.recorder.next_switch:
            self.recorder.switch(step)
        is_observed = self.sampler.is_due(step)
        is_measured = self.resources.is_due(step, is_observed=is_observed)
        self.now_s += self.step_s
        inside_s = resources_s = 0.0
        if self.recorder.is_active:
            inside_s += self.spend(Consumer.RECORDER, self.recorder_s)
            self.recorder.spent_s.append(self.recorder_s)
        if is_measured:
            resources_s = self.spend(Consumer.RESOURCES, self.resources_s)
        if step >= self.next_check:
            inside_s += self.spend(Consumer.NONFINITE, self.check_s)
            self.check.learn(self.check_s)
            self.next_check = step + self.check.every
        if is_observed:
            inside_s += self.spend(Consumer.STATISTICS, self.observe_s)
            if self.rules.is_due():
                rules_began_s = self.now_s
                inside_s += self.spend(Consumer.RULES, self.rules_s)
                self.rules.record(rules_began_s)
        time_s = self.now_s - began_s
        self.resources.record(
            step, time_s, resources_s, was_measured=is_measured, was_observed=is_observed
        )
        if not is_measured:
            self.sampler.record(step, time_s, inside_s, was_observed=is_observed)
        self.sampler.set_aside(self.resources.cost(), "resources")
        if self.sampler.pace_s:
            check_s = self.check_s / self.check.every
            self.sampler.set_aside(check_s / self.sampler.pace_s, "nonfinite check")


@pytest.mark.parametrize(
    "costs",
    [
        {"observe_s": 0.3, "resources_s": 0.5, "check_s": 0.001, "rules_s": 0.02, "recorder_s": 0.004},
        {"observe_s": 2.0, "resources_s": 3.0, "check_s": 0.01, "rules_s": 0.3, "recorder_s": 0.05},
        {"observe_s": 0.02, "resources_s": 0.02, "check_s": 0.1, "rules_s": 0.001, "recorder_s": 0.02},
        {"observe_s": 1.0, "resources_s": 1.0, "check_s": 0.15, "rules_s": 1.0, "recorder_s": 0.3},
    ],
)
@pytest.mark.parametrize("step_s", [0.002, 0.2])
def test_the_sum_of_all_costs_stays_within_the_budget(step_s, costs):
    """Costs are in units of the step time: from a thousandth of a step to three steps."""
    training = Training(step_s, **{name: cost * step_s for name, cost in costs.items()})
    for step in range(WARM):
        training.step(step)
    before = dict(training.spent_s)
    for step in range(WARM, STEPS):
        training.step(step)
    part = {
        consumer: (training.spent_s[consumer] - before[consumer]) / ((STEPS - WARM) * step_s)
        for consumer in Consumer
    }
    assert sum(part.values()) <= FRACTION * 1.02, part
    assert all(part[consumer] > 0 for consumer in (Consumer.STATISTICS, Consumer.RESOURCES)), part
    one_run = {Consumer.RESOURCES: costs["resources_s"], Consumer.NONFINITE: costs["check_s"]}
    for consumer, cost in one_run.items():  # the window may hold one run more than the mean
        share = Budget(FRACTION).share(consumer) + cost / (STEPS - WARM)
        assert part[consumer] <= share * 1.001, part
    both = part[Consumer.RECORDER] + part[Consumer.NONFINITE]
    run = RECORDER_RUN * costs["recorder_s"] / (STEPS - WARM)
    assert both <= Budget(FRACTION).share(Consumer.RECORDER) + run, part


def test_the_shares_of_what_is_not_part_of_another_consumer_add_up_to_the_budget():
    parts = (
        Consumer.STATISTICS,
        Consumer.RESOURCES,
        Consumer.RECORDER,
    )  # rules are part of observed steps
    assert sum(Budget(0.02).share(consumer) for consumer in parts) == pytest.approx(0.02)
    assert Budget(0.02).share(Consumer.NONFINITE) < Budget(0.02).share(Consumer.RECORDER)
    assert Budget(None).share(Consumer.RULES) == Budget(0.02).share(Consumer.RULES)


def test_an_interval_is_the_least_one_that_keeps_to_what_is_allowed():
    assert interval(1.0, 0.5, largest=100) == 2
    assert interval(1.01, 0.5, largest=100) == 3
    assert interval(0.1, 0.5, largest=100) == 1
    assert interval(0.1, 0.5, least=10, largest=100) == 10
    assert interval(1e9, 0.5, largest=100) == 100
    assert interval(1.0, 0.0, largest=100) == 100


def test_rate_limited_work_takes_its_share_of_the_time_and_pauses_five_seconds_at_most():
    now_s = 0.0
    limit = RateLimit(0.005, lambda: now_s)
    for _ in range(200):
        assert limit.is_due()
        limit.record(now_s)
    began_s, spent_s = now_s, 0.0
    for _ in range(100_000):
        if limit.is_due():
            run_began_s = now_s
            now_s += 0.01
            spent_s += 0.01
            limit.record(run_began_s)
        now_s += 0.002
    assert 0.004 <= spent_s / (now_s - began_s) <= 0.0051
    slow_began_s = now_s
    now_s += 60.0
    limit.record(slow_began_s)
    waited = itertools.takewhile(lambda _: not limit.is_due(), range(10))
    assert list(waited) == []  # the pause of five seconds is over when the slow run has ended
