"""The set of faults in `benchmarks/faults`: it is complete, its proofs hold, and the score judges rightly."""

import sys
from pathlib import Path

import pytest

from gradscope.findings.codes import CODES, finding

sys.path.append(str(Path(__file__).parents[3]))

from benchmarks.faults.prove import prove
from benchmarks.faults.score import Job, Outcome, jobs, result_of, run_job, summary
from benchmarks.faults.sick import SICK
from benchmarks.faults.sound import SOUND


def sick_named(name):
    return next(position for position, sick in enumerate(SICK) if sick.name == name)


def test_the_set_has_the_promised_size_and_each_name_once():
    names = [each.name for each in (*SICK, *SOUND)]
    assert len(SICK) >= 55
    assert len(SOUND) >= 62
    assert len(set(names)) == len(names)


def test_each_code_of_a_run_has_a_sick_program():
    needs_hub = {"replicas-differ", "resume-mismatch"}  # see tests/hub
    assert set(CODES) - needs_hub <= {code for sick in SICK for code in sick.codes}


@pytest.mark.parametrize(
    "name",
    [
        "the head is in no optimizer",
        "zero_grad is missing",
        "mse_loss of (N, 1) and (N,)",
        "12 layers with small initial weights",
        "0 / 0 in one step",
    ],
)
def test_a_sick_program_has_its_fault_and_its_twin_does_not(name):
    sick = SICK[sick_named(name)]
    assert sick.proof.holds(*prove(sick, 40))


def test_a_program_is_judged_by_code_and_first_layer():
    position = sick_named("an activation is missing")  # linear-chain, at 0 or 2
    job = Job("sick", position, 10)
    at = [finding("linear-chain", "", step=3, layers=layers) for layers in (("2", "0"), ("4", "0"))]
    other = finding("no-gradient", "", step=1, layers=("2",))
    hint = finding("linear-chain", "", step=5, layers=("0",), severity="hint")
    results = [
        result_of(job, Outcome(found)) for found in ((at[0],), (other, at[1]), (other,), (hint,), ())
    ]
    assert [each.is_detected for each in results] == [True, True, True, True, False]
    assert [each.is_right_code for each in results] == [True, True, False, True, False]
    assert [each.is_right_layer for each in results] == [True, False, False, True, False]
    twin = result_of(Job("twin", position, 10), Outcome((hint, other)))
    assert len(twin.messages) == 1
    score = summary([*results, twin], 10)
    assert (score["detected"], score["right_code"], score["right_layer"], score["as_hints"]) == (
        4,
        3,
        2,
        1,
    )
    assert (score["median_step"], score["twins_with_alarm"]) == (3, 1)


def test_a_fault_is_found_and_its_twin_and_a_sound_program_are_silent():
    sick, twin = jobs("a Softmax layer before cross entropy", 5)
    assert result_of(sick, run_job(sick)).is_good
    assert result_of(twin, run_job(twin)).is_good
    (sound,) = jobs("an auxiliary loss", 5)
    assert result_of(sound, run_job(sound)).is_good
