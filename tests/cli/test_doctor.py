"""`gradscope doctor`: what is printed, and how it ends. Processes are started where that matters."""

import json
import os
import subprocess
import sys
import time

import pexpect
import pytest

from gradscope.cli.commands.doctor import run_doctor
from gradscope.doctor import Report
from gradscope.errors import UsageError

FUNCTIONS = """
import os
import time
import torch
from torch.autograd import Function
from beside import factor

print("the file prints this")

class Good(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return factor * x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 3 * factor * x**2 * dy

class Bad(Good):
    @staticmethod
    def backward(ctx, dy):
        return -Good.backward(ctx, dy)

def example_inputs():
    return (torch.linspace(0.5, 1.5, 4),)
"""
HARMFUL = """
class Aborts(Good):
    @staticmethod
    def backward(ctx, dy):
        os.abort()

class Hangs(Good):
    @staticmethod
    def forward(ctx, x):
        while True:
            time.sleep(0.01)

class Last(Good):
    pass
"""


@pytest.fixture
def write(tmp_path):
    """Write a file with Functions, and a second file that it imports."""

    def write(text, name="functions"):
        (tmp_path / "beside.py").write_text("factor = 2.0\n")
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        return file

    return write


def doctor(target, capfd, **options):
    """Run the command in this process; return its exit code and what it printed on stdout."""
    chosen = {
        "form": "json", "is_isolated": False, "approximate": False, "second_order": True,
        "timeout_s": None,
    } | options  # fmt: skip
    code = run_doctor(str(target), **chosen)
    return code, capfd.readouterr().out


def test_each_function_of_a_file_is_reported_and_an_error_is_exit_1(write, gradscope):
    below = 'os.write(1, b"and this from below Python")\n'
    ran = gradscope("doctor", str(write(FUNCTIONS + below)))
    assert ran.returncode == 1, ran.stderr
    good, bad = ran.stdout.index("Good"), ran.stdout.index("Bad")
    assert good < ran.stdout.index("wrong-gradient-sign", bad)
    assert "wrong-gradient-sign" not in ran.stdout[:bad]
    assert "this" not in ran.stdout.split("Steps")[0]
    assert "the file prints this" in ran.stderr
    assert "and this from below Python" in ran.stderr


@pytest.mark.timing  # a child process with torch for each Function that dies: a minute next to another worker
def test_one_that_crashes_or_hangs_hides_no_other_and_json_is_one_array(write, gradscope):
    file = write(FUNCTIONS + HARMFUL)
    ran = gradscope("doctor", str(file), "--json", "--isolate", "--timeout", "3")
    assert ran.returncode == 1, ran.stderr
    reports = [Report.from_dict(report) for report in json.loads(ran.stdout)]
    assert [(report.name, report.ok) for report in reports] == [
        ("Good", True), ("Bad", False), ("Aborts", False), ("Hangs", False), ("Last", True),
    ]  # fmt: skip
    assert [report.codes[:1] for report in reports[1:4]] == [
        ("wrong-gradient-sign",), ("backward-raises",), ("forward-raises",),
    ]  # fmt: skip
    died, late = reports[2].findings[0], reports[3].findings[0]
    assert died.message == "the process in which it was examined died: signal SIGABRT"
    assert late.message == "the examination did not end in 3 s and was stopped"
    lines = file.read_text().splitlines()
    assert "os.abort()" in lines[int(died.where.rpartition(":")[2]) - 1]
    assert "time.sleep" in lines[int(late.where.rpartition(":")[2]) - 1]


def test_the_sarif_of_a_file_names_the_line_and_is_exit_1_with_an_error(write, gradscope):
    file = write(FUNCTIONS)
    ran = gradscope("doctor", f"{file}:Bad", "--format", "sarif")
    assert ran.returncode == 1, ran.stderr
    (run,) = json.loads(ran.stdout)["runs"]
    (result,) = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (result["ruleId"], result["level"]) == ("wrong-gradient-sign", "error")
    assert place["artifactLocation"]["uri"] == file.as_uri()
    lines = file.read_text().splitlines()
    assert lines[place["region"]["startLine"] - 1] == "class Bad(Good):"
    both = gradscope("doctor", str(file), "--format", "sarif", "--json")
    assert (both.returncode, both.stdout) == (2, "")
    assert "expected --json or --format sarif, got both" in both.stderr


def test_a_function_that_hangs_is_stopped_without_isolation_too(write, capfd):
    code, out = doctor(f"{write(FUNCTIONS + HARMFUL)}:Hangs", capfd, timeout_s=1.0)
    (report,) = json.loads(out)
    assert code == 1
    assert report["findings"][0]["message"] == "the examination did not end in 1 s and was stopped"


def test_a_sound_function_that_is_named_is_exit_0(write, capfd):
    code, out = doctor(f"{write(FUNCTIONS)}:Good", capfd)
    assert (code, [report["name"] for report in json.loads(out)]) == (0, ["Good"])


def test_whether_second_derivatives_are_wanted_is_passed_on(write, capfd):
    file = write(FUNCTIONS.replace("(x,) = ctx.saved_tensors", "x = ctx.saved_tensors[0].detach()"))
    for is_wanted, severity in ((True, "error"), (False, "warning")):
        code, out = doctor(f"{file}:Good", capfd, second_order=is_wanted)
        first = json.loads(out)[0]["findings"][0]
        assert (code, first["code"], first["severity"]) == (int(is_wanted), "graph-broken", severity)


def test_an_approximation_is_graded_if_requested(write, capfd):
    file = write(FUNCTIONS.replace("return 3 * factor", "return 1.005 * 3 * factor"))
    code, out = doctor(f"{file}:Good", capfd, approximate=True)
    assert (code, "approximate-noticeable" in out) == (0, True)
    assert doctor(f"{file}:Good", capfd)[0] == 1


@pytest.mark.parametrize(
    ("text", "target", "options", "words"),
    [
        ("x = 1", "", {}, "expected an autograd Function in"),
        ("import no_such_module", "", {}, "No module named 'no_such_module'; first make it run"),
        ("raise SystemExit(0)", "", {}, "cannot be run: SystemExit"),
        ("1 +", "", {}, "cannot be run: SyntaxError"),
        ("while True: pass", "", {"timeout_s": 0.5}, "did not end in 0.5 s and was stopped at line 1"),
        ("x = 1", "", {"timeout_s": 0.0}, "expected --timeout above 0 seconds, got 0"),
        (FUNCTIONS, ":Worse", {}, "found Good, Bad; define it at the top level"),
        (FUNCTIONS, ":1x", {}, "expected FILE.py or FILE.py:NAME"),
        (FUNCTIONS.replace("(torch.linspace(0.5, 1.5, 4),)", "1 / 0"), "", {}, "raises ZeroDivision"),
        (FUNCTIONS.replace("torch.linspace(0.5, 1.5, 4)", "'a'"), "", {}, "its inputs, got str"),
        (FUNCTIONS.replace("(torch.linspace(0.5, 1.5, 4),)", "()"), "", {}, "got none"),
    ],
)  # fmt: skip
def test_wrong_usage_says_what_is_wrong(write, capfd, text, target, options, words):
    with pytest.raises(UsageError, match=words):
        doctor(f"{write(text, 'some')}{target}", capfd, **options)


def test_a_file_that_is_not_there_and_one_that_does_not_import_are_exit_2(write, gradscope):
    missing = gradscope("doctor", "no_such_file.py")
    refused = gradscope("doctor", str(write("import no_such_module")), "--isolate", "--json")
    assert [(ran.returncode, ran.stdout) for ran in (missing, refused)] == [(2, ""), (2, "")]
    assert "expected a Python file, found none at no_such_file.py" in missing.stderr
    assert "No module named 'no_such_module'" in refused.stderr
    assert "Traceback" not in missing.stderr + refused.stderr


def test_without_torch_it_says_how_to_get_it(tmp_path, write):
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    for option in ((), ("--isolate",)):
        ran = subprocess.run(  # a fresh interpreter, which has not imported torch
            [sys.executable, "-m", "gradscope", "doctor", str(write(FUNCTIONS)), *option],
            env=os.environ | {"PYTHONPATH": str(hiding)},
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert ran.returncode == 2, ran.stderr
        assert ran.stderr.splitlines()[-1] == (
            "gradscope: gradscope.doctor needs torch, which is not installed here: pip install torch"
        )


def test_a_long_examination_says_on_a_terminal_that_it_continues_and_leaves_no_line(write):
    file = write(
        FUNCTIONS.replace("return factor * x**3", "time.sleep(0.02)\n        return factor * x**3")
    )
    child = pexpect.spawn(
        sys.executable, ["-m", "gradscope", "doctor", f"{file}:Good"],
        env=os.environ | {"TERM": "xterm"}, encoding="utf-8", timeout=60,
    )  # fmt: skip
    began_s = time.monotonic()
    child.expect(r"examining Good, step \d of 5: \d+ s")
    assert time.monotonic() - began_s > 1.0
    child.expect_exact("\r\x1b[K")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
