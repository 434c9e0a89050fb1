"""Records a session of the terminal UI on the demo as an asciicast: `python docs/session.py build/session.cast`.

The real UI runs in a pseudo-terminal of 80 by 24 cells, and keys are pressed at given times. Play the file with
`asciinema play build/session.cast`. Linux and macOS only.
"""

import codecs
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

_WIDTH, _HEIGHT = 80, 24
_KEYS = (
    (3.0, "j"), (3.5, "j"), (4.0, "\r"), (7.0, "\x1b"), (7.5, "M"), (10.0, "M"), (10.5, "["), (11.0, "["), (12.5, "p"),
    (13.0, "W"), (13.5, "loss > 3"), (16.5, "\x1b"), (17.0, "i"), (18.0, "c"), (20.5, "\x1b"), (21.0, "6"), (24.0, "q"),
)  # fmt: skip
"""Seconds after the first layers are shown, and the key."""

_SHOWN = "Depth"
_START_S, _END_S = 60.0, 25.0


def record(path: Path) -> None:
    """Run the demo, press the keys and write what the terminal was sent. Raises RuntimeError if no screen appears."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        os.execvp(sys.executable, [sys.executable, "-m", "gradscope", "demo"])  # noqa: S606 - the program itself
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _HEIGHT, _WIDTH, 0, 0))
    try:
        events = list(_events(terminal))
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"version": 2, "width": _WIDTH, "height": _HEIGHT}) + "\n")
        for at_s, text in events:
            file.write(json.dumps([round(at_s, 2), "o", text], ensure_ascii=False) + "\n")


def _events(terminal: int) -> "list[tuple[float, str]]":
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    keys, events, seen, began_s = list(_KEYS), [], "", None
    started_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        if began_s is None and now_s - started_s > _START_S:
            raise RuntimeError(f"the UI did not appear in {_START_S:g} s; it printed: {seen[-500:]}")
        at_s = 0.0 if began_s is None else now_s - began_s
        if at_s > _END_S:
            return events
        if keys and at_s >= keys[0][0]:
            os.write(terminal, keys.pop(0)[1].encode())
        if not select.select([terminal], [], [], 0.05)[0]:
            continue
        try:
            text = decoder.decode(os.read(terminal, 65_536))
        except OSError:  # the program has ended
            return events
        events.append((at_s, text))
        seen += text if began_s is None else ""
        if began_s is None and _SHOWN in seen:
            began_s = now_s


if __name__ == "__main__":
    record(Path(sys.argv[1]))
