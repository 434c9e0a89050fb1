"""What a resumed run is compared with, and what it is not reported for."""

import dataclasses

import pytest

from gradscope.rules import EarlierRun, FirstSteps, StepOfRun, find_resume_mismatch


def step(number, *, digest=True, has_state=2, lr=0.01, batch=None, shift=0.0):
    """A step of a run whose weights grow by 0.001 of their norm a step. Its digests are those of the numbers."""
    bits = (lambda number: 1000 + number) if digest else (lambda number: None)
    return StepOfRun(
        number,
        parameters={
            "fc.weight": (
                2.0 + 0.01 * number + shift,
                10.0 + 0.01 * number,
                bits(number + int(shift * 1e4)),
            )
        },
        updates={"fc.weight": (0.01, 0.01, bits(number + 1))},
        inputs=() if not digest else (500 + number if batch is None else batch,),
        learning_rate=lr,
        has_state=has_state if number else 0,
    )


def earlier(last=100, **options):
    steps = [step(number, **options) for number in range(last + 1)]
    losses = {number: 1.0 / (1 + number) for number in range(last + 1)}
    return EarlierRun(steps, losses, {each.step: each.learning_rate for each in steps}, last)


def resumed(start=101, *, losses=(0.0099, 0.0098, 0.0097), **options):
    return FirstSteps(start, [step(number, **options) for number in range(start, start + 3)], losses)


def said(found):
    return [] if found is None else found.evidence["mismatches"].split(", ")


@pytest.mark.parametrize("digest", [True, False])
def test_a_run_that_is_resumed_rightly_has_no_finding(digest):
    assert find_resume_mismatch(resumed(digest=digest), earlier(digest=digest)) is None
    assert (
        find_resume_mismatch(resumed(60, digest=digest, losses=(0.016,) * 3), earlier(digest=digest))
        is None
    )


def test_missing_optimizer_state_is_named():
    found = find_resume_mismatch(resumed(has_state=0), earlier())
    assert found.message == "resumed at 101: optimizer state is missing"
    assert said(found) == ["optimizer-state"]


def test_an_optimizer_that_never_had_a_state_misses_none():
    assert find_resume_mismatch(resumed(has_state=0), earlier(has_state=0)) is None


@pytest.mark.parametrize("digest", [True, False])
def test_parameters_that_were_not_loaded_are_named(digest):
    found = find_resume_mismatch(resumed(shift=3.0, digest=digest, losses=()), earlier(digest=digest))
    assert said(found) == ["parameters"]


def test_the_initial_parameters_and_those_of_another_step_are_recognised():
    first = dataclasses.replace(step(101), parameters=step(0).parameters)
    found = find_resume_mismatch(FirstSteps(101, [first]), earlier())
    assert found.message == "resumed at 101: the parameters are the initial ones of the earlier run"
    first = dataclasses.replace(step(101), parameters=step(80).parameters)
    found = find_resume_mismatch(FirstSteps(101, [first]), earlier())
    assert found.message == "resumed at 101: the parameters are those of step 80 of the earlier run"
    assert said(found) == ["step"]


def test_a_learning_rate_that_begins_again_is_named_and_a_schedule_is_not():
    rates = {number: 0.1 * 0.97**number for number in range(101)}
    run = dataclasses.replace(earlier(), learning_rates=rates)
    assert find_resume_mismatch(resumed(lr=0.1 * 0.97**101), run) is None
    found = find_resume_mismatch(resumed(lr=0.1), run)
    assert said(found) == ["learning-rate"]
    assert "is 0.1, the one that the earlier run began with; it was 0.00475" in found.message


def test_data_that_begins_again_is_named_unless_the_batch_had_come_again():
    again = dataclasses.replace(step(101), inputs=(500,))
    found = find_resume_mismatch(FirstSteps(101, [again]), earlier())
    assert said(found) == ["data-position"]
    single = earlier(batch=7)
    assert find_resume_mismatch(FirstSteps(101, [step(101, batch=7)]), single) is None


def test_a_loss_that_jumps_is_named_and_noise_is_not():
    assert said(find_resume_mismatch(resumed(losses=(2.3, 2.2, 2.3)), earlier())) == ["loss"]
    assert find_resume_mismatch(resumed(losses=(0.012, 2.3, 0.013)), earlier()) is None


def test_a_start_beyond_the_end_of_the_recording_is_a_hint():
    found = find_resume_mismatch(resumed(400, digest=False, losses=()), earlier(digest=False))
    assert (said(found), found.severity) == (["step"], "hint")


def test_without_a_step_there_is_nothing_to_compare():
    assert find_resume_mismatch(FirstSteps(5, []), earlier()) is None
    assert find_resume_mismatch(resumed(), EarlierRun([], {}, {}, 0)) is None
