"""A forked process is to its test what a process of a fresh interpreter is."""

import signal
import subprocess
import sys

import pytest

from support import fork_server

pytestmark = pytest.mark.slow

KINDS = pytest.mark.parametrize("run", [subprocess.run, fork_server.run], ids=["fresh", "forked"])


def outcome(run, *arguments, **options):
    done = run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)
    return done.returncode, done.stdout, done.stderr


@KINDS
def test_streams_arguments_folder_and_environment_are_those_given(run, tmp_path):
    script = """
import os, sys
print(sys.argv, os.getcwd(), os.environ['A'], input())
print(1, file=sys.stderr)
"""
    found = outcome(
        run, "-c", script, "x", cwd=tmp_path, env={"A": "b", "PYTHONPATH": ""}, input="hello"
    )
    assert found == (0, f"['-c', 'x'] {tmp_path} b hello\n", "1\n")


@KINDS
@pytest.mark.parametrize(
    ("script", "code", "error"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("import sys; sys.exit()", 0, ""),
        ("import os; os._exit(4)", 4, ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
    ],
)
def test_the_exit_code_and_stderr_are_those_of_an_interpreter(run, script, code, error):
    assert outcome(run, "-c", script) == (code, "", error)


@KINDS
def test_an_interruption_ends_it_by_the_signal(run):
    code, _, error = outcome(run, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    assert code == -signal.SIGINT
    assert error.endswith("KeyboardInterrupt\n")


@KINDS
def test_an_exception_is_printed_with_the_program_s_frames_alone(run, tmp_path):
    (tmp_path / "program.py").write_text("def fail():\n    1 / 0\n\nfail()\n")
    code, out, error = outcome(run, str(tmp_path / "program.py"))
    assert (code, out) == (1, "")
    lines = [line for line in error.splitlines() if line.lstrip().startswith("File")]
    assert lines == [
        f'  File "{tmp_path}/program.py", line 4, in <module>',
        f'  File "{tmp_path}/program.py", line 2, in fail',
    ]
    assert error.endswith("ZeroDivisionError: division by zero\n")


@KINDS
def test_what_is_registered_for_the_exit_runs_after_the_threads(run):
    script = """
import atexit, threading, time
atexit.register(print, "exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print("main")
"""
    assert outcome(run, "-c", script) == (0, "main\nthread\nexit\n", "")


@KINDS
def test_a_warning_filter_of_the_command_line_holds(run):
    code, _, error = outcome(run, "-W", "error", "-c", "import warnings; warnings.warn('mine')")
    assert code == 1
    assert error.endswith("UserWarning: mine\n")


@KINDS
def test_a_module_runs_as_main(run, tmp_path):
    (tmp_path / "mine.py").write_text("import sys; print(__name__, sys.argv[1:])")
    assert outcome(run, "-m", "mine", "x", cwd=tmp_path) == (0, "__main__ ['x']\n", "")


def test_a_forked_process_has_torch_its_usual_threads_and_own_random_numbers():
    script = """
import os, sys
print("torch" in sys.modules, len(os.listdir("/proc/self/task")))
import torch, numpy
print(torch.get_num_threads())
print(torch.rand(1).item(), numpy.random.rand())
"""
    (head, threads, first), (_, _, second) = (
        outcome(fork_server.run, "-c", script)[1].splitlines() for _ in range(2)
    )
    assert head == "True 1"
    assert threads == outcome(subprocess.run, "-c", script)[1].splitlines()[1]
    assert not set(first.split()) & set(second.split())


def test_one_that_runs_is_a_process_that_a_test_has_left_until_it_is_waited_for():
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    with fork_server.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        assert process.poll() is None
        assert fork_server.started_pids() == {process.pid}
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.stdin.close()
        assert process.wait(20) == 0
    assert fork_server.started_pids() == set()
