"""The order of findings, and which of them explain others."""

import json
import re
from pathlib import Path

import pytest

from gradscope import findings
from gradscope.errors import UsageError
from gradscope.findings import CODES, DOCTOR_CODES, Finding, Verdict, code_of
from gradscope.findings import finding as doctor_finding


def finding(code, severity="warning", *, since=3, found=5, **fields):
    return Finding(
        code=code, severity=severity, message=f"{code} seen", cause="a cause", fix="a fix",
        since_step=since, found_step=found, **fields,
    )  # fmt: skip


def test_errors_come_before_warnings_and_warnings_before_hints():
    found = [finding("frozen", "hint"), finding("eval-mode"), finding("never-zeroed", "error")]
    assert [each.code for each in Verdict.of("run", "", found).findings] == [
        "never-zeroed",
        "eval-mode",
        "frozen",
    ]


def test_among_equal_severities_the_one_that_began_first_comes_first():
    found = [finding("eval-mode", since=9, found=9), finding("frozen", since=2, found=10)]
    assert [each.code for each in Verdict.of("run", "", found).findings] == ["frozen", "eval-mode"]


def test_a_consequence_is_under_its_cause():
    found = [finding("not-in-optimizer"), finding("stale-optimizer", "error")]
    verdict = Verdict.of("run", "", found)
    assert [each.code for each in verdict.findings] == ["stale-optimizer"]
    assert [each.code for each in verdict.consequences[0]] == ["not-in-optimizer"]


def test_a_consequence_of_a_consequence_is_under_the_first_cause():
    found = [
        finding("loss-spike", since=30, found=30),
        finding("exploding-gradient", since=20, found=22),
        finding("learning-rate-too-high", since=5, found=8),
    ]
    verdict = Verdict.of("run", "", found)
    assert [each.code for each in verdict.findings] == ["learning-rate-too-high"]
    assert {each.code for each in verdict.consequences[0]} == {"loss-spike", "exploding-gradient"}


def test_a_cause_that_began_later_explains_nothing():
    found = [
        finding("loss-spike", since=2, found=2),
        finding("learning-rate-too-high", since=50, found=60),
    ]
    assert len(Verdict.of("run", "", found).findings) == 2


def test_hints_alone_are_healthy():
    verdict = Verdict.of("run", "in 40 steps", [finding("frozen", "hint")])
    assert not verdict.has_problem
    assert verdict.headline == "healthy so far: nothing found in 40 steps"


def test_the_headline_names_the_worst_finding_and_counts_the_others():
    found = [finding("eval-mode"), finding("never-zeroed", "error")]
    assert Verdict.of("run", "", found).headline == "error never-zeroed: never-zeroed seen (and 1 more)"


def test_the_text_has_cause_and_fix_of_each_finding_in_100_columns():
    found = [finding("eval-mode", layers=("a" * 60, "b" * 60))]
    lines = Verdict.of("run", "", found).lines()
    assert "  why:   a cause" in lines
    assert "  next:  a fix" in lines
    assert max(map(len, lines)) <= 100


def test_the_json_has_every_finding_and_the_position_of_its_cause():
    found = [finding("not-in-optimizer"), finding("stale-optimizer", "error", layers=("head",))]
    plain = json.loads(json.dumps(Verdict.of("run", "in 4 steps", found).as_json()))
    assert plain["version"] == 1
    assert plain["checked"] == "in 4 steps"
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
    verdict = Verdict.of("F", "", found)
    assert [each.message for each in verdict.findings] == ["that of a is wrong"]
    assert [each.message for each in verdict.consequences[0]] == [
        "that of b is wrong",
        "that of c is wrong",
    ]


def test_a_cause_is_as_severe_as_its_gravest_consequence():
    found = [finding("loss-spike", "error"), finding("learning-rate-too-high")]
    (cause,) = Verdict.of("run", "", found).findings
    assert (cause.code, cause.severity) == ("learning-rate-too-high", "error")


def test_a_code_of_a_later_version_is_shown_last():
    found = [finding("of-a-later-version"), finding("eval-mode")]
    assert [each.code for each in Verdict.of("run", "", found).findings] == [
        "eval-mode",
        "of-a-later-version",
    ]
