"""Right Functions are left alone: nothing above a hint, in the tests' own and in the examples."""

import importlib.util
from pathlib import Path

import pytest

from gradscope.doctor import examine, examine_file

FOLDER = Path(__file__).parent / "sound"
EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "autograd").glob("*.py"))


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(f"sound_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOUND = {name: case for path in sorted(FOLDER.glob("*.py")) for name, case in _load(path).SOUND.items()}


def grave(report):
    return [f.code for f in report.findings if f.severity in ("error", "warning")]


@pytest.mark.parametrize("name", SOUND)
def test_a_right_function_gives_nothing_above_a_hint(name):
    function, inputs, options = SOUND[name]
    report = examine(function, *inputs, **options)
    assert grave(report) == [], str(report)
    assert report.ok


def test_there_are_forty_of_them():
    assert len(SOUND) >= 40


@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if "def example_inputs" in p.read_text()], ids=lambda p: p.stem
)
def test_every_function_of_the_examples_passes(path):
    for report in examine_file(path):
        assert grave(report) == [], str(report)
        assert all(step.status == "passed" for step in report.steps), str(report)
