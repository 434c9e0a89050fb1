"""When an intervention acts: written out step by step."""

import math

import pytest

from gradscope.errors import UsageError
from gradscope.intervene import ACTIONS, Ramp, Schedule, check_schedule, parse_ramp
from gradscope.intervene.schedule import acts_in, arguments_in, is_over

REVERSE = ACTIONS["reverse"]


@pytest.mark.parametrize(
    ("schedule", "since", "steps"),
    [
        (Schedule(), 3, [3, 4, 5, 6, 7, 8, 9]),
        (Schedule(every_steps=3), 2, [2, 5, 8]),
        (Schedule(start_step=4, every_steps=2), 4, [4, 6, 8]),
        (Schedule(end_step=6), 3, [3, 4, 5]),
    ],
)
def test_a_schedule_is_active_in_these_steps(schedule, since, steps):
    acting = [s for s in range(10) if acts_in(schedule, since, s) and not is_over(schedule, s)]
    assert acting == steps


def test_a_linear_ramp_goes_evenly_and_stays_at_its_end():
    schedule = Schedule(ramp=Ramp("alpha", 0.0, 2.0, 4))
    values = [arguments_in(schedule, {"alpha": 9.0}, 10, s)["alpha"] for s in range(10, 17)]
    assert values == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_the_ramp_of_domain_adversarial_training_is_the_papers_formula():
    schedule = Schedule(ramp=Ramp("alpha", 0.0, 1.0, 1000, "dann"))
    for done in (0, 1, 100, 500, 999):
        paper = 2.0 / (1.0 + math.exp(-10.0 * done / 1000)) - 1.0
        assert arguments_in(schedule, {}, 0, done)["alpha"] == pytest.approx(paper, rel=1e-12)
    assert arguments_in(schedule, {}, 0, 1000)["alpha"] == 1.0


@pytest.mark.parametrize(
    ("kind", "text", "ramp"),
    [
        ("reverse", "alpha=0:1:1000", Ramp("alpha", 0.0, 1.0, 1000)),
        ("reverse", "alpha=0:1:1000:dann", Ramp("alpha", 0.0, 1.0, 1000, "dann")),
        ("scale", "-1:2.5:7", Ramp("factor", -1.0, 2.5, 7)),
    ],
)
def test_a_ramp_is_read_from_text(kind, text, ramp):
    found = check_schedule(Schedule(ramp=parse_ramp(text)), "scale", ACTIONS[kind].spec.arguments)
    assert found.ramp == ramp


@pytest.mark.parametrize("text", ["", "alpha", "0:1", "alpha=0:1:2.5", "alpha=a:b:c", "0:1:5:dann:x"])
def test_any_other_text_is_refused(text):
    with pytest.raises(UsageError, match="a ramp is ARGUMENT=FROM:TO:STEPS"):
        parse_ramp(text)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(start_step=5, end_step=5), "it would act in no step: start_step is 5, end_step is 5"),
        (Schedule(every_steps=0), "every_steps must be at least 1"),
        (
            Schedule(ramp=Ramp("seed", 0, 1, 5)),
            r"expected a ramp of one of the numeric arguments \(alpha\), got 'seed'",
        ),
        (Schedule(ramp=Ramp("alpha", 0, 1, 0)), "at least 1 step"),
        (Schedule(ramp=Ramp("alpha", 0, math.inf, 3)), "alpha must be a finite number"),
        (Schedule(ramp=Ramp("alpha", 0, 1, 3, "cubic")), "shape of a ramp to be 'linear' or 'dann'"),
        (Schedule(condition="norm >"), "expected a number, got the end"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule, words):
    with pytest.raises(UsageError, match=words):
        check_schedule(schedule, "reverse", REVERSE.spec.arguments)


def test_a_ramp_keeps_within_the_arguments_range():
    with pytest.raises(UsageError, match="max_norm must be a number of at least 0, got -1"):
        check_schedule(
            Schedule(ramp=Ramp("max_norm", -1, 1, 3)), "clip", ACTIONS["clip"].spec.arguments
        )


def test_an_action_that_ignores_the_gradient_takes_no_condition():
    with pytest.raises(UsageError, match="straight_through takes no condition"):
        check_schedule(Schedule(condition="norm > 1"), "straight_through", (), may_have_condition=False)
