"""The Functions of a file, examined in a child process, which may crash or hang without harm.

The child writes a line when it begins with a Function and one with its report. Where it dies, or is
silent for too long, the Function it was at gets a report that says so, and another child goes on.
"""

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gradscope.doctor.files import TIMEOUT_S, took_too_long
from gradscope.doctor.progress import progress
from gradscope.doctor.report.report import Report
from gradscope.doctor.timeouts import Place, died, out_of_time
from gradscope.errors import UsageError

__all__ = ["examine_file_isolated"]

_GRACE_S: Final = 5.0
"""How much later than the child's own limit it is ended from outside."""
_POLL_S: Final = 0.05
_FRAME: Final = re.compile(r'^  File "(.+)", line (\d+) in (\w+)$', re.MULTILINE)


def examine_file_isolated(
    path: str | Path,
    name: str | None = None,
    *,
    approximate: bool = False,
    second_order: bool = True,
    timeout_s: float = TIMEOUT_S,
) -> list[Report]:
    """Do what `examine_file` does in a child process. `timeout_s` is for each Function.

    One that crashes the child, or does not end in time, gets a report that says so. Raises UsageError
    as that does, and with the end of what the child printed where it died before it came to a Function.
    """
    asked: dict[str, object] = {
        "path": str(path),
        "name": name,
        "approximate": approximate,
        "second_order": second_order,
        "timeout_s": timeout_s,
    }
    reports: list[Report] = []
    with progress(f"examining {path}, in a process of its own"):
        while True:
            ended = _run_child(asked | {"after": len(reports)}, timeout_s)
            reports += ended.reports
            if ended.refused is not None:
                raise UsageError(ended.refused)
            if ended.code == 0:
                return reports
            reports.append(_last_words(ended, str(path), timeout_s))


@dataclass(slots=True)
class _Ended:
    """A child that has ended: its exit code, its reports, what it had begun, what it said."""

    code: int
    is_late: bool
    said: str
    reports: list[Report] = field(default_factory=list)
    begun: str | None = None
    refused: str | None = None

    def read(self, lines: str) -> None:
        """Take in what it wrote; a last line that is not whole was cut off."""
        for line in lines.splitlines(keepends=True):
            if line.endswith("\n"):
                entry: dict[str, Any] = json.loads(line)
                self.begun = entry.get("begin")
                self.refused = entry.get("refused")
                if "report" in entry:
                    self.reports.append(Report.from_dict(entry["report"]))


def _run_child(asked: dict[str, object], timeout_s: float) -> _Ended:
    with tempfile.TemporaryDirectory(prefix="gradscope-") as directory:
        written, said = Path(directory) / "reports", Path(directory) / "said"
        written.touch()
        command = [
            *(sys.executable, "-P", "-X", "faulthandler", "-m", "gradscope.doctor"),
            *(json.dumps(asked), str(written)),
        ]
        with said.open("wb") as stream:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
            try:
                is_late = not _is_over(process, written, timeout_s + _GRACE_S)
                if is_late:
                    _end(process)
            finally:
                process.kill()
                process.wait()
        ended = _Ended(process.returncode, is_late, said.read_text(encoding="utf-8", errors="replace"))
        ended.read(written.read_text(encoding="utf-8"))
        return ended


def _is_over(process: "subprocess.Popen[bytes]", written: Path, patience_s: float) -> bool:
    """Wait until the child ends; return False where it wrote nothing for so long."""
    size, since_s = -1, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return True
        now_s, now_size = time.monotonic(), written.stat().st_size
        if now_size != size:
            size, since_s = now_size, now_s
        elif now_s - since_s > patience_s:
            return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Have the child say where it is, and end it."""
    process.send_signal(signal.SIGABRT)  # faulthandler writes the stack
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)


def _last_words(ended: _Ended, path: str, timeout_s: float) -> Report:
    """Return the report on the Function that the child did not survive; raise where it came to none."""
    lines = ended.said.strip().splitlines()
    if ended.begun is None:
        if ended.is_late:
            raise UsageError(took_too_long(path, timeout_s, None))
        last = "\n".join(lines[-5:])
        raise UsageError(
            f"the examination of {path} ended with exit code {ended.code} and no report; it last "
            f"said:\n{last}"
        )
    place = next(_places(ended.said, path), None)
    if ended.is_late:
        return out_of_time(ended.begun, timeout_s, place)
    how = _how(ended.code)
    return died(ended.begun, how, place, [line for line in lines if line.startswith("Fatal")][-1:])


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _places(said: str, path: str) -> Iterator[Place]:
    """Yield the frames in the examined file that faulthandler wrote, the innermost first."""
    whole = str(Path(path).absolute())
    for file, line, name in _FRAME.findall(said):
        if file in (path, whole):
            yield path, int(line), name
