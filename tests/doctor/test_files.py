"""Functions in files, examined here or in a child process."""

import pytest

from gradscope.doctor import examine_file, examine_file_isolated
from gradscope.errors import UsageError

pytestmark = pytest.mark.slow

GOOD_AND_BAD = """
import torch
from torch.autograd import Function

class Good(Function):
    @staticmethod
    def forward(ctx, x):
        print("noise on stdout")
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return (2 * x + 1) * dy

class Bad(Good):
    @staticmethod
    def example_inputs():
        return (torch.ones(4),)

    @staticmethod
    def backward(ctx, dy):
        dy *= 3
        return dy

def example_inputs():
    return {"Good": (torch.linspace(0, 1, 4),)}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "functions.py"
    file.write_text(GOOD_AND_BAD)
    return file


def test_each_function_of_a_file_is_examined_by_itself(path, capsys):
    good, bad = examine_file(path)
    assert (good.name, good.codes) == ("Good", ())
    assert (bad.name, bad.codes[0]) == ("Bad", "grad-output-modified")
    assert bad.findings[0].where == f"{path}:24"


@pytest.mark.parametrize("returned", ["torch.linspace(0, 1, 4)", "{'Good': torch.linspace(0, 1, 4)}"])
def test_one_tensor_as_example_inputs_is_the_only_input(tmp_path, capsys, returned):
    file = tmp_path / "one.py"
    good = GOOD_AND_BAD[: GOOD_AND_BAD.index("class Bad")]
    file.write_text(f"{good}\ndef example_inputs():\n    return {returned}\n")
    (report,) = examine_file(file)
    assert (report.codes, report.steps[0].numbers["inputs"]) == ((), ["x float32[4]"])


def test_one_function_can_be_named(path, capsys):
    assert [report.name for report in examine_file(path, "Bad")] == ["Bad"]
    with pytest.raises(
        UsageError, match=r"expected an autograd Function named Worse in .*, found Good, Bad"
    ):
        examine_file(path, "Worse")


def test_a_child_process_gives_the_same_reports(path, capsys):
    here, there = examine_file(path), examine_file_isolated(path)
    assert [(r.name, r.codes) for r in there] == [(r.name, r.codes) for r in here]
    assert there[1].findings[0].message == here[1].findings[0].message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os\nos.abort()", "ended with exit code -6 and no report"),
        ("while True: pass", r"did not end in 1 s and was stopped at line 1"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_file_that_crashes_or_hangs_is_a_usage_error(tmp_path, body, words):
    file = tmp_path / "harmful.py"
    file.write_text(body)
    with pytest.raises(UsageError, match=words):
        examine_file_isolated(file, timeout_s=1.0 if "while" in body else 60.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", r"expected an autograd Function in .*, found none"),
        (
            "from torch.autograd import Function\nclass A(Function): pass",
            r"expected example inputs for A, found none",
        ),
        (
            (
                "from torch.autograd import Function\nclass A(Function): pass\n"
                "def example_inputs(): return {}"
            ),
            r"expected example_inputs\(\) to give a tuple of inputs for A, got NoneType",
        ),
        ("1 / 0", r"cannot be run: ZeroDivisionError"),
    ],
)
def test_a_file_without_what_is_needed_is_refused(tmp_path, text, words):
    file = tmp_path / "some.py"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        examine_file(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expected a Python file, found none at"):
        examine_file(tmp_path / "none.py")
