"""The table of codes in the README of the diagnoses. `python tests/doctor/test_readme.py` writes it."""

import importlib.util
from pathlib import Path

import gradscope.doctor
from gradscope.doctor import CODES, SEVERITIES

README = Path(gradscope.doctor.__file__).parent / "diagnoses" / "README.md"
HEAD = "| fault | code | severity | how it is found |\n|---|---|---|---|\n"


def make_table():
    rows = (f"| {c.fault} | `{c.name}` | {c.severity} | {c.found_by} |\n" for c in CODES.values())
    return HEAD + "".join(rows)


def test_the_readme_has_the_table_of_codes():
    assert README.read_text(encoding="utf-8").endswith("\n" + make_table()), (
        f"run `python {__file__}`, which writes the table"
    )


def broken_functions():
    """Yield the Functions of the folder `broken` that say what is found in them."""
    for path in sorted((Path(__file__).parent / "broken").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"table_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from (f for f in vars(module).values() if hasattr(f, "found_first"))


def test_each_code_has_a_broken_function():
    functions = list(broken_functions())
    assert {f.found_first for f in functions} == set(CODES) - {
        "gradient-by-design",  # no fault
        "backward-never-called",  # not a Function
    }
    assert len(functions) >= 54  # 18 faults that everybody meets, and twice as many again
    for function in functions:
        severity = getattr(function, "severity", CODES[function.found_first].severity)
        assert severity in SEVERITIES


def test_the_public_names_are_these():
    assert gradscope.doctor.__all__ == [
        "CODES",
        "KNOWN_MESSAGES",
        "REPORT_VERSION",
        "SEVERITIES",
        "TIMEOUT_S",
        "CheckItem",
        "ExaminationStep",
        "Finding",
        "KnownMessage",
        "Report",
        "Timing",
        "examine",
        "examine_file",
        "examine_file_isolated",
        "examine_model",
        "examine_step_functions",
        "recognise",
        "time_function",
    ]


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(text[: text.index(HEAD)] + make_table(), encoding="utf-8")
