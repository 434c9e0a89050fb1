"""`examine_file_isolated`: examines the Functions of a file in a child process, which may crash or hang.

The child writes a line when it begins to examine a Function, and another with the report. If it dies, or writes nothing
for too long, a report on the current Function says so, and another child continues with the next Function.
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

from gradscope.doctor.files import TIMEOUT_S, timeout_message
from gradscope.doctor.progress import progress
from gradscope.doctor.report.report import Report
from gradscope.doctor.timeouts import CodePosition, report_on_death, report_on_timeout
from gradscope.errors import UsageError

__all__ = ["examine_file_isolated"]

_START_S: Final = 60.0
"""Time limit for the child to import torch, in seconds."""
_GRACE_S: Final = 5.0
"""Seconds after the child's own time limit until the child is killed."""
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
    """Examine the Functions of a file like `examine_file`, but in a child process.

    timeout_s: the time limit for each Function, in seconds. A Function that crashes the child or exceeds the limit
        gets a report that says so.

    Raises UsageError like `examine_file`, and if the child dies before it begins with a Function. The message then
    includes the end of the child's output.
    """
    options: dict[str, object] = {
        "path": str(path),
        "name": name,
        "approximate": approximate,
        "second_order": second_order,
        "timeout_s": timeout_s,
    }
    reports: list[Report] = []
    with progress(f"examining {path} in a child process"):
        while True:
            child = _run_child(options | {"after": len(reports)}, timeout_s)
            reports += child.reports
            if child.refusal is not None:
                raise UsageError(child.refusal)
            if child.exit_code == 0:
                return reports
            reports.append(_report_on_last(child, str(path), timeout_s))


@dataclass(slots=True)
class _EndedChild:
    """A child process that has ended."""

    exit_code: int
    is_late: bool
    output: str
    reports: list[Report] = field(default_factory=list)
    begun: str | None = None
    """The name of the last Function that the child began to examine, if it wrote no report on it."""
    refusal: str | None = None
    """The message of the child's UsageError."""

    def read(self, text: str) -> None:
        """Read the lines that the child wrote, except an incomplete last line."""
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                entry: dict[str, Any] = json.loads(line)
                self.begun = entry.get("begin")
                self.refusal = entry.get("refused")
                if "report" in entry:
                    self.reports.append(Report.from_dict(entry["report"]))


def _run_child(options: dict[str, object], timeout_s: float) -> _EndedChild:
    with tempfile.TemporaryDirectory(prefix="gradscope-") as directory:
        reports, output = Path(directory) / "reports", Path(directory) / "output"
        reports.touch()
        command = [
            *(sys.executable, "-P", "-X", "faulthandler", "-m", "gradscope.doctor"),
            *(json.dumps(options), str(reports)),
        ]
        with output.open("wb") as stream:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
            try:
                is_late = not _ends_in_time(process, reports, timeout_s + _GRACE_S)
                if is_late:
                    _abort_child(process)
            finally:
                process.kill()
                process.wait()
        text = output.read_text(encoding="utf-8", errors="replace")
        child = _EndedChild(process.returncode, is_late, text)
        child.read(reports.read_text(encoding="utf-8"))
        return child


def _ends_in_time(process: "subprocess.Popen[bytes]", reports: Path, silence_s: float) -> bool:
    """Wait until the child has ended. Return False if it writes nothing for `silence_s` seconds."""
    size_bytes, since_s = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return True
        now_s, now_bytes = time.monotonic(), reports.stat().st_size
        if now_bytes != size_bytes:
            size_bytes, since_s = now_bytes, now_s
        elif now_s - since_s > (silence_s if size_bytes else _START_S + silence_s):
            return False


def _abort_child(process: "subprocess.Popen[bytes]") -> None:
    """Kill the child with a signal that makes faulthandler write the child's stack."""
    process.send_signal(signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)


def _report_on_last(child: _EndedChild, path: str, timeout_s: float) -> Report:
    """Return a report on the Function at which the child died. Raises UsageError if the child had begun with none."""
    lines = child.output.strip().splitlines()
    if child.begun is None:
        if child.is_late:
            raise UsageError(timeout_message(path, timeout_s, None))
        last = "\n".join(lines[-5:])
        raise UsageError(
            f"the examination of {path} ended with exit code {child.exit_code} and no report; the end of its "
            f"output:\n{last}"
        )
    position = next(_positions_in_stack(child.output, path), None)
    if child.is_late:
        return report_on_timeout(child.begun, timeout_s, position)
    fatal = "".join([line for line in lines if line.startswith("Fatal")][-1:])
    return report_on_death(child.begun, _exit_status(child.exit_code), position, fatal)


def _exit_status(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _positions_in_stack(output: str, path: str) -> Iterator[CodePosition]:
    """Yield the lines of the examined file in the stack that faulthandler wrote, innermost first."""
    absolute = str(Path(path).absolute())
    for file, line, name in _FRAME.findall(output):
        if file in (path, absolute):
            yield CodePosition(path, int(line), name)
