"""Right Functions are left alone: nothing above a hint, in the tests' own and in the examples."""

import importlib.util
from pathlib import Path

import pytest
import torch

from gradscope.doctor import examine, examine_file

pytestmark = pytest.mark.slow

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
    assert not [note for note in report.notes if note.startswith("not examined:")], str(report)


def test_there_are_more_than_forty_from_published_formulas():
    published = {
        n for part in ("elementwise", "layers", "losses") for n in _load(FOLDER / f"{part}.py").SOUND
    }
    assert len(published) >= 60


def wide_cases():
    """Return functions of several kinds on inputs of (32, 128), the once slow ones among them."""
    elementwise, structured, layers = (
        _load(FOLDER / f"{name}.py") for name in ("elementwise", "structured", "layers")
    )
    linear, memory = (
        _load(FOLDER.parents[2] / "examples" / "autograd" / f"{n}.py") for n in ("linear", "memory")
    )
    x, w = structured.sample(32, 128), structured.sample(128, 128) / 8
    cases = {
        name: (elementwise.SOUND[name][0], torch.linspace(low, high, 4096).reshape(32, 128))
        for name, (_, _, low, high) in elementwise.ROWS.items()
    }
    return cases | {
        "softmax": (structured.Softmax, x),
        "rms norm": (structured.RmsNorm, x, x[0].clone()),
        "attention": (
            structured.Attention,
            *(structured.sample(4, 32, 128) + i / 10 for i in range(3)),
        ),
        "inverse": (structured.Inverse, w + 20 * torch.eye(128)),
        "complex square": (structured.ComplexSquare, x.to(torch.complex64)),
        "NumPy inside": (structured.NumpyInside, x),
        "fake quantisation": (structured.FakeQuantise, x),
        "linear": (linear.Linear, x, w, x[0].clone()),
        "checkpointed": (memory.Checkpointed, x, w),
        "checkpoint": (memory.Checkpoint, memory.two_layers, x, w),
        "reversible": (layers.Reversible, x, w[:64, :64].clone(), w[64:, 64:].clone()),
        "neural ODE": (layers.OdeAdjoint, x, w),
    }


WIDE = wide_cases()


@pytest.mark.parametrize("name", WIDE)
def test_a_right_function_on_32_by_128_gives_nothing_above_a_hint(name):
    function, *inputs = WIDE[name]
    report = examine(function, *inputs, second_order=True)
    assert {f.severity for f in report.findings} <= {"hint"}, str(report)


@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if "def example_inputs" in p.read_text()], ids=lambda p: p.stem
)
def test_every_function_of_the_examples_passes(path):
    for report in examine_file(path, approximate=path.stem == "approximate"):
        assert grave(report) == [], str(report)
        assert all(step.status == "passed" for step in report.steps), str(report)
