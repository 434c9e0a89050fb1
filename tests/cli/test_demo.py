"""`gradscope demo` from end to end, in real processes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from gradscope.cli.selfcheck.trainer import Trainer, new_run_name
from support.waiting import wait_for


@pytest.fixture(autouse=True)
def logs(places, monkeypatch) -> Path:
    """Where the trainings' output goes."""
    monkeypatch.setenv("TMPDIR", str(places))
    return places


def _processes(word: str) -> list[int]:
    """The processes whose command line has a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has just ended
            found += [int(entry.name)] if word in words else []
    return found


@contextmanager
def _started() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A tour that has started its trainings, and its run's name."""
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, here and there
    demo = subprocess.Popen(
        [sys.executable, "-m", "gradscope", "demo"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGHUP, ignored)
    with demo:
        try:
            assert demo.stdout is not None
            demo.stdout.readline()
            name = demo.stdout.readline().split()[0]
            wait_for(lambda: _processes(name))
            yield demo, name
        finally:
            demo.terminate()


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_without_a_terminal_it_reverses_a_gradient_and_proves_it(gradscope):
    ran = gradscope("demo", timeout_s=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    reversed_ = re.search(
        r"Reversed .* blocks\.1\.attention\.proj: in force from step (\d+) on", ran.stdout
    )
    assert reversed_ is not None
    step = int(reversed_[1])
    report = ran.stdout[ran.stdout.index("The watched training") :]
    assert (
        f"steps 0 to {step - 1}: cosine +1.000000, all losses and gradients equal bit by bit" in report
    )
    assert f"step {step}: cosine -1.000000, exactly its opposite" in report
    assert re.search(r"loss \d\.\d{4} after the reversal, \d\.\d{4} without", report)
    assert "All of it holds." in report
    assert re.search(r"blocks\.1\.attention\.proj +\d\S* +\d\S* +\d\S*", ran.stdout), ran.stdout
    name = re.search(r"demo-[0-9a-f]{6}", ran.stdout)[0]
    assert not _processes(name)
    assert name in gradscope("ls").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_all_processes_and_is_exit_130(logs, number):
    with _started() as (demo, name):
        if number == signal.SIGTERM:  # this one while it trains, the others while it starts
            wait_for(lambda: "watching" in (logs / f"gradscope-{name}.log").read_text())
        demo.send_signal(number)
        demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert not _processes(name)
    assert not _processes(f"{name}-control")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_an_interruption_while_a_training_is_being_started_leaves_no_process(logs, number, monkeypatch):
    start, started = subprocess.Popen, []

    def interrupted(*arguments, **keywords):
        started.append(start(*arguments, **keywords))
        signal.raise_signal(number)
        return started[0]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), Trainer(new_run_name(), "--seed", "0"):
            pass
    finally:
        signal.signal(number, before)
    assert started[0].poll() is not None


def test_a_training_that_dies_is_exit_1_with_the_end_of_its_output(logs):
    with _started() as (demo, name):
        log = logs / f"gradscope-{name}.log"
        wait_for(lambda: "watching" in log.read_text())
        for pid in _processes(name):
            os.kill(pid, signal.SIGKILL)
        out, err = demo.communicate(timeout=60)
    assert demo.returncode == 1, out + err
    assert f"the training ended with exit code {-signal.SIGKILL}" in err
    assert "gradscope: watching" in err
    assert str(log) in err


@pytest.mark.timing  # next to another worker the screen does not show the table within the deadline
@pytest.mark.processes
@pytest.mark.parametrize("how", ["q", "SIGTERM"])
def test_on_a_terminal_the_screen_s_end_is_the_training_s_end(logs, how):
    terminal = pexpect.spawn(
        sys.executable, ["-m", "gradscope", "demo"], env=os.environ | {"TERM": "xterm-256color"},
        dimensions=(32, 120), timeout=200, encoding="utf-8",
    )  # fmt: skip
    terminal.expect("starting a training")
    terminal.expect("token_embedding")
    name = re.search(r"demo-[0-9a-f]{6}", terminal.before)[0]
    assert _processes(name)
    if how == "q":
        terminal.send("q")
        terminal.expect(f"its output is in {logs}/gradscope-{name}.log")
    else:
        terminal.kill(signal.SIGTERM)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == (0 if how == "q" else 130)
    assert not _processes(name)
