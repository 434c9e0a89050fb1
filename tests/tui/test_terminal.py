"""The app in a pseudo-terminal: hub, agent and app are processes, and keys are bytes."""

import os
import signal
import sys
import time

import numpy as np
import pexpect
import pyte
import pytest

from support.recordings import KINDS, block_of, make_recording

OPEN = "import sys, gradscope_tui; sys.exit(gradscope_tui.run_app(None))"


class Terminal:
    """A screen of cells that a child draws on."""

    def __init__(self, command, columns, rows):
        self.bells = 0
        self.screen = pyte.Screen(columns, rows)
        self.screen.bell = self._count_bell
        self._stream = pyte.ByteStream(self.screen)
        self.child = pexpect.spawn(
            command[0], command[1:], dimensions=(rows, columns), timeout=None,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )  # fmt: skip
        self.started_s = time.monotonic()

    @property
    def text(self):
        return "\n".join(self.screen.display)

    def until(self, *words, seconds=20.0):
        """Read until all words are shown; return the seconds since the start."""
        end = time.monotonic() + seconds
        while not all(word in self.text for word in words):
            if time.monotonic() > end:
                pytest.fail(f"{words} did not appear in {seconds} s:\n{self.text}")
            try:
                self._stream.feed(self.child.read_nonblocking(65536, timeout=0.05))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                pytest.fail(f"it ended before {words} appeared:\n{self.text}")
        return time.monotonic() - self.started_s

    def _count_bell(self):
        self.bells += 1

    def press(self, keys):
        self.child.send(keys)

    def end(self):
        """Read to the end; return the exit code."""
        self.child.expect(pexpect.EOF, timeout=20)
        self._stream.feed(self.child.before)
        self.child.close()
        return self.child.exitstatus

    def close(self):
        self.child.close(force=True)


@pytest.fixture
def terminal(places):
    opened = []

    def start(columns, rows, *arguments):
        command = ["-m", "gradscope", *arguments] if arguments else ["-c", OPEN]
        opened.append(Terminal([sys.executable, *command], columns, rows))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["120x32", "80x24"])
def test_in_a_terminal_a_reversal_is_set_by_keys_and_removed_when_quitting(agent, terminal, size):
    agent("trial-1")
    screen = terminal(*size)
    screen.until("trial-1", "tokens", "live")
    screen.press("j")
    screen.press("i")
    screen.until("a key selects")
    screen.press("r")
    screen.until("enter applies", "is multiplied")
    screen.press("\r")
    screen.until("◆ 1 active", "reverse ×−1 on tokens, active since step")  # noqa: RUF001
    screen.press("q")
    screen.until("remove, then quit")
    screen.press("r")
    assert screen.end() == 0


def test_it_waits_for_a_run_and_ctrl_c_ends_it_with_130(agent, terminal):
    screen = terminal(80, 24)
    screen.until("Waiting for a run", "gradscope run train.py")
    agent("late-1")
    screen.until("late-1", "(GPT)")
    assert screen.screen.title == "gradscope late-1"
    screen.press("\x03")
    assert screen.end() == 130
    assert b"\x1b[23;2t" in screen.child.before  # the terminal's own title


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_the_screen_with_130_and_restores_the_terminal(terminal, number):
    screen = terminal(80, 24)
    screen.until("Waiting for a run")
    screen.child.kill(number)
    assert screen.end() == 130
    assert screen.child.before.rpartition(b"\x1b[?1049l")[1]  # the screen from before the app


def test_a_signal_ends_the_screen_although_its_terminal_reads_nothing(terminal):
    screen = terminal(80, 24)
    screen.until("Waiting for a run")
    resizes = 0
    while screen.child.isalive() and resizes < 2_000:  # each paints all, until the buffers are full
        resizes += 1
        screen.child.setwinsize(24, 80 + resizes % 40)
        if resizes == 200:
            screen.child.kill(signal.SIGTERM)
        time.sleep(0.01)
    assert not screen.child.isalive()
    assert screen.child.exitstatus == 130


@pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["120x32", "80x24"])
def test_a_recording_is_opened_by_the_command_and_gone_through_by_keys(terminal, tmp_path, size):
    names = ("stem", "head")
    blocks = {step: block_of(np.full((2, len(KINDS)), 1.0 + step)) for step in range(0, 90, 3)}
    path = make_recording(
        tmp_path / "known.gradscope", blocks, names=names, findings=[("loss-spike", 30, "it rises", ())]
    )
    screen = terminal(*size, "replay", str(path))
    screen.until("❚❚ step 87 of 0 to 87", "recording: ended: done", "stem", "88.0")
    screen.press("\x1b[H")
    screen.until("❚❚ step 0 of", "recording, not live", "next, at step 30")
    screen.press("\x1b[C")
    screen.until("❚❚ step 3 of", "4.00")
    screen.press("n")
    screen.until("❚❚ step 30 of", "loss-spike: it rises")
    screen.press(" ")
    screen.until("▶ step 3")
    screen.press(" ")
    screen.until("❚❚ step")
    screen.press("i")
    screen.until("This is a recording")
    screen.press("q")
    assert screen.end() == 0


@pytest.mark.timing
def test_the_screen_shows_that_the_training_was_killed(agent, terminal):
    process = agent("short-1")
    screen = terminal(80, 24)
    screen.until("short-1", "● live")
    process.kill()
    killed_s = time.monotonic()
    screen.until("no new step for")
    assert time.monotonic() - killed_s < 3.0  # two seconds, and a machine that is busy
    screen.until("■ ended")
    screen.press("q")
    assert screen.end() == 0


@pytest.mark.parametrize("options", [(), ("--notify",)], ids=["plain", "notify"])
def test_wait_rings_the_bell_of_the_terminal_if_it_is_asked_to(agent, terminal, options):
    agent("trial-1")
    screen = terminal(80, 24, "wait", "trial-1", "--until", "step=1", *options)
    screen.until("step")
    assert screen.end() == 0
    assert screen.bells == len(options)
