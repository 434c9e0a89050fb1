"""Each code has a page with all headings; the program on it has the fault, and what the page says to do works."""

import importlib.util
import re
from pathlib import Path

import pytest

from gradscope.errors import UsageError
from gradscope.findings import CODES
from gradscope.findings.explanation import HEADINGS, PAGES, list_of_codes, page_of, page_text

_SCRIPT = Path(__file__).parents[2] / "docs" / "finding_pages.py"


NEEDS_HUB = {"replicas-differ", "resume-mismatch"}
"""Codes that the hub finds: `tests/hub/test_replicas.py` and `test_resumption.py` train their programs."""


@pytest.fixture(scope="module")
def run_page():
    spec = importlib.util.spec_from_file_location("finding_pages", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run_page


def test_there_is_a_page_for_each_code_and_no_other():
    assert {path.stem for path in PAGES.iterdir()} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_page_has_all_headings_and_what_gradscope_says(code):
    page = page_of(code)
    assert page.startswith(f"# {code}\n")
    assert tuple(re.findall(r"^## (.*)$", page, re.MULTILINE)) == HEADINGS
    shown = re.search(r"^## On the screen\n```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    assert re.search(rf"(error|warning|hint) {code}: ", shown)
    assert f"gradscope explain {code}" in shown


@pytest.mark.processes
@pytest.mark.parametrize("code", sorted(set(CODES) - NEEDS_HUB))
def test_the_program_of_a_page_has_the_fault_and_the_check_confirms_it(code, run_page):
    outcome = run_page(code)
    assert code in {finding.code for finding in outcome.verdict.every()}
    assert not outcome.faults
    assert outcome.printed == outcome.promised


def test_the_list_has_each_code_with_its_meaning():
    lines = list_of_codes().splitlines()
    assert [line.split()[0] for line in lines] == list(CODES)
    assert all(line.endswith(code.meaning) for line, code in zip(lines, CODES.values(), strict=True))


def test_an_unknown_code_has_no_page():
    with pytest.raises(UsageError, match="dead-units"):
        page_of("../secrets")


def test_a_code_of_the_doctor_is_explained_from_the_table():
    assert "save numbers, shapes and strings as attributes" in page_of("non-tensor-saved")


@pytest.mark.parametrize("width", [40, 76])
def test_paragraphs_of_a_page_are_wrapped_and_programs_are_not(width):
    text = page_text("nonfinite", width)
    programs = re.findall(r"^```python\n.*?^```", page_of("nonfinite"), re.MULTILINE | re.DOTALL)
    assert all(program in text for program in programs)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()
    assert max(len(line) for line in prose) <= width
    assert "- The data contains NaN." in prose
    assert text.split() == page_of("nonfinite").split()
