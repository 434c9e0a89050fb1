"""The table of codes in the README of the diagnoses."""

import importlib.util
from pathlib import Path

import gradscope.doctor
from gradscope.findings import DOCTOR_CODES

README = Path(gradscope.doctor.__file__).parent / "diagnoses" / "README.md"
HEAD = "| fault | code | severity | how it is found |\n|---|---|---|---|\n"


def test_the_readme_describes_each_code_in_order():
    text = README.read_text(encoding="utf-8")
    rows = [row.strip("| \n").split(" | ") for row in text[text.index(HEAD) + len(HEAD) :].splitlines()]
    assert [(code, severity) for _, code, severity, _ in rows] == [
        (f"`{code.name}`", code.severity) for code in DOCTOR_CODES.values()
    ]
    assert all(fault and found_by for fault, _, _, found_by in rows)


def broken_functions():
    """Yield the Functions of the folder `broken` that say what is found in them."""
    for path in sorted((Path(__file__).parent / "broken").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"table_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from (f for f in vars(module).values() if hasattr(f, "found_first"))


def test_each_code_has_a_broken_function():
    functions = list(broken_functions())
    assert {f.found_first for f in functions} == set(DOCTOR_CODES) - {
        "gradient-by-design",  # no fault
        "backward-never-called",  # not a Function
    }
    assert len(functions) >= 54  # 18 faults that everybody meets, and twice as many again


def test_the_public_names_are_these():
    assert gradscope.doctor.__all__ == [
        "KNOWN_MESSAGES",
        "TIMEOUT_S",
        "CheckItem",
        "ExaminationStep",
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
