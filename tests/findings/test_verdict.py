"""The order of findings, and which of them explain others."""

import json
import re
from pathlib import Path

import pytest

from gradscope import findings
from gradscope.errors import UsageError
from gradscope.findings import (
    CODES,
    DOCTOR_CODES,
    Checked,
    Finding,
    NotChecked,
    Verdict,
    code_of,
    unreported,
)
from gradscope.findings import finding as doctor_finding
from gradscope.findings.text import finding_text


def finding(code, severity="warning", *, since=3, found=5, **fields):
    plain = {"message": f"{code} seen", "cause": "a cause", "fix": "a fix"}
    return Finding(
        code=code, severity=severity, since_step=since, found_step=found, **plain | fields
    )  # fmt: skip


def test_errors_come_before_warnings_and_warnings_before_hints():
    found = [finding("frozen", "hint"), finding("eval-mode"), finding("never-zeroed", "error")]
    assert [each.code for each in Verdict.of("run", Checked(), found).findings] == [
        "never-zeroed",
        "eval-mode",
        "frozen",
    ]


def test_among_equal_severities_the_one_that_began_first_comes_first():
    found = [finding("eval-mode", since=9, found=9), finding("frozen", since=2, found=10)]
    assert [each.code for each in Verdict.of("run", Checked(), found).findings] == [
        "frozen",
        "eval-mode",
    ]


def test_a_consequence_is_under_its_cause():
    found = [finding("not-in-optimizer"), finding("stale-optimizer", "error")]
    verdict = Verdict.of("run", Checked(), found)
    assert [each.code for each in verdict.findings] == ["stale-optimizer"]
    assert [each.code for each in verdict.consequences[0]] == ["not-in-optimizer"]


def test_a_consequence_of_a_consequence_is_under_the_first_cause():
    found = [
        finding("loss-spike", since=30, found=30),
        finding("exploding-gradient", since=20, found=22),
        finding("learning-rate-too-high", since=5, found=8),
    ]
    verdict = Verdict.of("run", Checked(), found)
    assert [each.code for each in verdict.findings] == ["learning-rate-too-high"]
    assert {each.code for each in verdict.consequences[0]} == {"loss-spike", "exploding-gradient"}


def test_a_cause_that_began_later_explains_nothing():
    found = [
        finding("loss-spike", since=2, found=2),
        finding("learning-rate-too-high", since=50, found=60),
    ]
    assert len(Verdict.of("run", Checked(), found).findings) == 2


def test_hints_alone_are_healthy():
    verdict = Verdict.of("run", Checked(40, 40), [finding("frozen", "hint")])
    assert not verdict.has_problem
    assert verdict.headline == "healthy so far: no more than 1 hint in 40 steps (all observed)"


def test_the_headline_names_the_worst_finding_and_counts_the_others():
    found = [finding("eval-mode"), finding("never-zeroed", "error")]
    assert (
        Verdict.of("run", Checked(), found).headline
        == "error never-zeroed: never-zeroed seen (and 1 more)"
    )


def test_the_text_has_cause_and_fix_of_each_finding_in_100_columns():
    found = [finding("eval-mode", layers=("a" * 60, "b" * 60))]
    lines = Verdict.of("run", Checked(), found).lines()
    assert "  why:   a cause" in lines
    assert "  next:  a fix" in lines
    assert max(map(len, lines)) <= 100


def test_the_json_has_every_finding_and_the_position_of_its_cause():
    found = [finding("not-in-optimizer"), finding("stale-optimizer", "error", layers=("head",))]
    plain = json.loads(json.dumps(Verdict.of("run", Checked(4, 4), found).as_json()))
    assert plain["version"] == 1
    assert plain["checked"]["text"] == "in 4 steps (all observed)"
    assert [(each["code"], each["explained_by"]) for each in plain["findings"]] == [
        ("stale-optimizer", None),
        ("not-in-optimizer", 0),
    ]
    assert plain["findings"][0]["layers"] == ["head"]


def test_an_unknown_code_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="not-in-optimizer"):
        code_of("not_in_optimizer")


def test_each_code_that_a_check_names_is_in_a_table():
    named = {
        name
        for path in Path(findings.__file__).parents[1].rglob("*.py")
        for name in re.findall(r'\bfinding\(\s*"([a-z-]+)"', path.read_text(encoding="utf-8"))
    }
    assert len(named) > 40
    assert named <= set(CODES) | set(DOCTOR_CODES)


@pytest.mark.parametrize("table", [CODES, DOCTOR_CODES], ids=["run", "doctor"])
def test_each_explained_code_is_in_the_table_and_none_explains_its_own_cause(table):
    for code in table.values():
        for name in set(code.explains) - {code.name}:
            assert code.name not in table[name].explains


def test_findings_of_a_function_with_one_code_are_under_the_first_of_them():
    found = [doctor_finding("wrong-gradient", f"that of {name} is wrong") for name in "abc"]
    verdict = Verdict.of("F", Checked(), found)
    assert [each.message for each in verdict.findings] == ["that of a is wrong"]
    assert [each.message for each in verdict.consequences[0]] == [
        "that of b is wrong",
        "that of c is wrong",
    ]


def test_a_cause_is_as_severe_as_its_gravest_consequence():
    found = [finding("loss-spike", "error"), finding("learning-rate-too-high")]
    (cause,) = Verdict.of("run", Checked(), found).findings
    assert (cause.code, cause.severity) == ("learning-rate-too-high", "error")


def test_a_code_of_a_later_version_is_shown_last():
    found = [finding("of-a-later-version"), finding("eval-mode")]
    assert [each.code for each in Verdict.of("run", Checked(), found).findings] == [
        "eval-mode",
        "of-a-later-version",
    ]


@pytest.mark.parametrize(
    ("checked", "text"),
    [
        (Checked(), "before the first step"),
        (Checked(1, 1, 1), "in 1 step (observed)"),
        (Checked(20, 20, 20), "in 20 steps (all observed)"),
        (Checked(9, 0), "in 9 steps (none observed)"),
        (Checked(1_240, 62, 20, 29), "in 1,240 steps (62 observed: the first 20, now every 29th)"),
        (Checked(500, 5, 1, 112), "in 500 steps (5 observed: now every 112th)"),
        (Checked(100, 99, 50, 1), "in 100 steps (99 observed: the first 50)"),
        (unreported(8), "up to step 7"),
    ],
)
def test_what_was_checked_is_said_in_steps(checked, text):
    assert checked.text == text


def test_a_healthy_run_says_what_was_not_checked_and_how_to_enable_it():
    gap = NotChecked("the loss", "no loss is logged", "call scope.log(loss=loss)")
    verdict = Verdict.of("run", Checked(40, 40, 40, 1, (gap,)), [])
    assert verdict.headline == (
        "healthy so far: nothing found in 40 steps (all observed); not checked: the loss"
    )
    assert verdict.lines()[-1] == "  the loss: no loss is logged; call scope.log(loss=loss)"


def test_before_the_first_step_there_is_no_verdict():
    assert Verdict.of("run", Checked(), []).headline == "no verdict yet: no step has ended"


def test_a_finding_as_text_has_all_that_a_person_needs_in_the_asked_width():
    found = finding(
        "dead-units",
        since=3,
        found=9,
        layers=("a", "b"),
        evidence={"share_of_units": 0.5, "batches": 4.0},
    )
    text = finding_text(found, width=40)
    assert max(map(len, text.splitlines())) <= 40
    words = " ".join(text.split())
    for part in (
        "warning dead-units: dead-units seen",
        "in: a, b",
        "since step 3, found in step 9",
        "why: a cause",
        "next: a fix",
        "share of units 0.5, batches 4 (measured)",
        "page: gradscope explain dead-units",
    ):
        assert part in words


def test_many_consequences_are_counted():
    found = [finding("vanishing-gradient", message=f"layer {i} gets nothing") for i in range(5)]
    text = finding_text(finding("dead-units"), consequences=found)
    assert text.splitlines()[-1] == "  also:  2 more that it explains: vanishing-gradient"
    assert text.count("gets nothing") == 3
