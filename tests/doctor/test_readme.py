"""The table in the room's README and the table of codes agree."""

import re
from pathlib import Path

import gradscope.doctor
from gradscope.doctor import CODES

README = Path(gradscope.doctor.__file__).parent / "README.md"


def test_the_readme_lists_each_code_with_its_severity_in_the_order_of_causes():
    rows = re.findall(r"^\| .*? \| `([a-z-]+)` \| (\w+) \|", README.read_text(), re.MULTILINE)
    assert rows == [(code.name, code.severity) for code in CODES.values()]


def test_the_public_names_are_these():
    assert gradscope.doctor.__all__ == [
        "CODES",
        "KNOWN_MESSAGES",
        "REPORT_VERSION",
        "SEVERITIES",
        "CheckItem",
        "Finding",
        "KnownMessage",
        "Report",
        "Step",
        "Timing",
        "examine",
        "examine_file",
        "examine_file_isolated",
        "examine_model",
        "recognise",
        "time_function",
    ]
