"""Puts this folder on the path, and judges cases."""

import sys
from pathlib import Path

import pytest

from support import conformance_table

sys.path.append(str(Path(__file__).parent))

from trials import Case, Outcome, judge


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import transformers, which takes seconds, if its tests are not to run."""
    is_unwanted = "not exhaustive" in config.option.markexpr
    return True if is_unwanted and collection_path.name == "test_families.py" else None


@pytest.fixture
def conforms(request: pytest.FixtureRequest):
    """A function (group, case) that judges a case and fails if it does not conform.

    The columns of the case travel with the test's report to `pytest_terminal_summary`, which prints
    the table of all cases.
    """

    def check(group: str, case: Case) -> Outcome:
        outcome = judge(case.run)
        columns = conformance_table.counts_of(outcome)
        request.node.user_properties.append(("conformance", (group, columns)))
        assert not outcome.problems, "\n".join(outcome.problems[:20])
        assert outcome.not_measured == case.not_measured
        assert outcome.told == case.told
        return outcome

    return check
