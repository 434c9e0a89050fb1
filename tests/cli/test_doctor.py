"""`gradscope doctor` as a process: what is printed, and how it ends."""

import json
import os
import sys
import time

import pexpect
import pytest

from gradscope.doctor import Report

FUNCTIONS = """
import os
import torch
from torch.autograd import Function
from beside import factor

print("the file prints this")
os.write(1, b"and this from below Python")

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


@pytest.fixture
def path(tmp_path):
    (tmp_path / "beside.py").write_text("factor = 2.0\n")
    file = tmp_path / "functions.py"
    file.write_text(FUNCTIONS)
    return file


def test_each_function_of_a_file_is_reported_and_an_error_is_exit_1(path, gradscope):
    ran = gradscope("doctor", str(path))
    assert ran.returncode == 1, ran.stderr
    good, bad = ran.stdout.index("Good"), ran.stdout.index("Bad")
    assert good < ran.stdout.index("wrong-gradient-sign", bad)
    assert "wrong-gradient-sign" not in ran.stdout[:bad]
    assert "prints this" not in ran.stdout
    assert "prints this" in ran.stderr


def test_a_sound_function_that_is_named_is_exit_0(path, gradscope):
    ran = gradscope("doctor", f"{path}:Good")
    assert ran.returncode == 0, ran.stderr
    assert "Bad" not in ran.stdout


@pytest.mark.parametrize("options", [(), ("--isolate", "--timeout", "60")])
def test_json_is_one_array_whatever_the_file_prints(path, gradscope, options):
    ran = gradscope("doctor", str(path), "--json", *options)
    assert ran.returncode == 1, ran.stderr
    reports = [Report.from_dict(report) for report in json.loads(ran.stdout)]
    assert [(report.name, report.ok) for report in reports] == [("Good", True), ("Bad", False)]
    assert reports[1].codes[0] == "wrong-gradient-sign"


def test_whether_second_derivatives_are_wanted_is_passed_on(tmp_path, gradscope):
    file = tmp_path / "cut.py"
    file.write_text(
        FUNCTIONS.replace("from beside import factor", "factor = 1.0").replace(
            "(x,) = ctx.saved_tensors", "x = ctx.saved_tensors[0].detach()"
        )
    )
    wanted = gradscope("doctor", f"{file}:Good", "--json")
    spared = gradscope("doctor", f"{file}:Good", "--json", "--no-second-order")
    assert (wanted.returncode, spared.returncode) == (1, 0)
    for ran, severity in ((wanted, "error"), (spared, "warning")):
        first = json.loads(ran.stdout)[0]["findings"][0]
        assert (first["code"], first["severity"]) == ("graph-broken", severity)


def test_an_approximation_is_graded_where_that_is_asked_for(tmp_path, gradscope):
    file = tmp_path / "coarse.py"
    text = FUNCTIONS.replace("from beside import factor", "factor = 1.0")
    file.write_text(text.replace("return 3 * factor", "return 1.005 * 3 * factor"))
    graded = gradscope("doctor", f"{file}:Good", "--json", "--approximate")
    assert graded.returncode == 0, graded.stderr
    assert "approximate-noticeable" in graded.stdout
    assert gradscope("doctor", f"{file}:Good", "--json").returncode == 1


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (None, (), "found none at"),
        ("x = 1", (), "expected an autograd Function in"),
        ("import no_such_module", (), "No module named 'no_such_module'"),
        ("import no_such_module", ("--isolate",), "No module named 'no_such_module'"),
        ("raise SystemExit(0)", (), "cannot be run: SystemExit"),
        ("x = 1", ("--timeout", "3"), "--timeout needs --isolate"),
        ("while True: pass", ("--isolate", "--timeout", "3"), "did not end in 3 s"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_wrong(tmp_path, gradscope, text, arguments, words):
    file = tmp_path / "some.py"
    if text is not None:
        file.write_text(text)
    ran = gradscope("doctor", str(file), *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_name_that_the_file_has_not_is_answered_with_those_that_it_has(path, gradscope):
    ran = gradscope("doctor", f"{path}:Worse")
    assert ran.returncode == 2
    assert "found Good, Bad" in ran.stderr
    assert "expected FILE.py or FILE.py:NAME" in gradscope("doctor", f"{path}:1x").stderr


@pytest.mark.parametrize("option", [(), ("--isolate",)])
def test_without_torch_it_says_how_to_get_it(tmp_path, path, gradscope, option, monkeypatch):
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(hiding))
    ran = gradscope("doctor", str(path), *option)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.splitlines()[-1] == (
        "gradscope: gradscope doctor needs torch, which is not installed here: pip install torch"
    )


def test_a_long_examination_says_on_a_terminal_that_it_goes_on_and_leaves_no_line(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text(
        "import time\ntime.sleep(3.2)\n"
        + FUNCTIONS.replace("from beside import factor", "factor = 1.0")
    )
    child = pexpect.spawn(
        sys.executable, ["-m", "gradscope", "doctor", f"{file}:Good"],
        env=os.environ | {"TERM": "xterm"}, encoding="utf-8", timeout=60,
    )  # fmt: skip
    began_s = time.monotonic()
    child.expect(r"examining .*slow\.py:Good: \d+ s")
    assert time.monotonic() - began_s > 1.5
    child.expect_exact("\r\x1b[K")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
