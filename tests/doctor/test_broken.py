"""Every broken function of the folder `broken` is diagnosed, with its own code first."""

import importlib.util
from pathlib import Path

import pytest
from torch.autograd import Function

from gradscope.doctor import examine
from gradscope.findings import DOCTOR_CODES

pytestmark = pytest.mark.slow


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(f"broken_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = [_load(path) for path in sorted((Path(__file__).parent / "broken").glob("*.py"))]
BROKEN = [
    value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Function) and hasattr(value, "found_first")
]


@pytest.mark.parametrize("function", BROKEN, ids=lambda f: f.__name__)
def test_the_first_finding_is_the_cause(function):
    report = examine(
        function, *function.example_inputs(), approximate=hasattr(function, "is_approximate")
    )
    assert report.codes[:1] == (function.found_first,), str(report)
    first = report.findings[0]
    assert first.severity == getattr(function, "severity", first.severity), str(report)
    said = [
        text
        for found in (first, *report.verdict.consequences.get(0, ()))
        for text in (found.message, *found.evidence, *map(str, found.evidence.values()))
    ]
    assert any(getattr(function, "evidence", "") in text for text in said), str(report)
    assert report.ok == all(f.severity != "error" for f in report.findings)
    assert first.cause
    assert first.fix
    assert not [note for note in report.notes if note.startswith("not examined:")], str(report)


def test_every_code_of_a_fault_of_a_function_has_a_broken_one():
    shown = {function.found_first for function in BROKEN}
    assert set(DOCTOR_CODES) - shown == {"gradient-by-design", "backward-never-called"}
