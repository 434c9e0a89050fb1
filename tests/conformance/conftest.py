"""Puts this folder on the path, and prints the table of all cases when they are done."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from trials import Case, Outcome, StepCounter, judge

_tally = pytest.StashKey[StepCounter]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> StepCounter:
    """The counts of this run of pytest."""
    return request.config.stash.setdefault(_tally, StepCounter())


@pytest.fixture
def conforms(tally: StepCounter):
    """A function (group, case) that judges a case, counts it, and fails where it does not conform."""

    def check(group: str, case: Case) -> Outcome:
        outcome = judge(case.run)
        tally.add(group, outcome)
        assert not outcome.problems, "\n".join(outcome.problems[:20])
        assert outcome.not_measured == case.not_measured
        assert outcome.told == case.told
        return outcome

    return check


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Print the table."""
    lines = list(config.stash.get(_tally, StepCounter()).lines())
    if lines:
        terminalreporter.section("conformance: bare against attached")
        for line in lines:
            terminalreporter.write_line(line)
