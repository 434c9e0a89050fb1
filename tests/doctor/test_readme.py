"""The table in the room's README and the table of codes agree."""

import importlib.util
import re
from pathlib import Path

import gradscope.doctor
from gradscope.doctor import CODES, SEVERITIES

README = Path(gradscope.doctor.__file__).parent / "README.md"


def test_the_readme_lists_each_code_with_its_severity_in_the_order_of_causes():
    rows = re.findall(r"^\| .*? \| `([a-z-]+)` \| (\w+) \|", README.read_text(), re.MULTILINE)
    assert rows == [(code.name, code.severity) for code in CODES.values()]


def broken_functions():
    """Yield the Functions of the folder `broken` that say what is found in them."""
    for path in sorted((Path(__file__).parent / "broken").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"table_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from (f for f in vars(module).values() if hasattr(f, "found_first"))


def test_each_row_of_the_table_is_shown_by_a_broken_function_and_no_other_code_is():
    rows = dict(re.findall(r"^\| .*? \| `([a-z-]+)` \| (\w+) \|", README.read_text(), re.MULTILINE))
    functions = list(broken_functions())
    assert {f.found_first for f in functions} == set(rows) - {"gradient-by-design"}  # no fault
    assert len(functions) >= 54  # 18 faults that everybody meets, and twice as many again
    for function in functions:
        severity = getattr(function, "severity", rows[function.found_first])
        assert severity in SEVERITIES


def test_the_public_names_are_these():
    assert gradscope.doctor.__all__ == [
        "CODES",
        "KNOWN_MESSAGES",
        "REPORT_VERSION",
        "SEVERITIES",
        "TIMEOUT_S",
        "CheckItem",
        "Finding",
        "KnownMessage",
        "Report",
        "Step",
        "Timing",
        "examine",
        "examine_file",
        "examine_file_isolated",
        "examine_met",
        "examine_model",
        "recognise",
        "time_function",
    ]
