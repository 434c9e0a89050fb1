"""The recorders of live runs. Opening and closing them does not wait for the disk."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.hub.history import Parts
from gradscope.hub.runs import Streamed
from gradscope.protocol import Environment, Hello

if TYPE_CHECKING:
    from gradscope.recording import Recorder

__all__ = ["Recorders"]

_CLOSE_S = 5.0


class Recorders:
    """One recorder for each run that is recorded. Each recorder is closed in a separate thread."""

    def __init__(self) -> None:
        self._open: dict[str, Recorder] = {}
        self._ranks: dict[str, set[int]] = {}
        self._reported: set[str] = set()
        self._closing: dict[str, threading.Thread] = {}

    def add(self, hello: Hello, message: Streamed | Environment, parts: Parts) -> str:
        """Record a message of a run. Opens the recorder at the first message.

        Returns the path of the recording; empty if the run is not recorded.
        """
        recorder = self._open.get(hello.run) or self._begin(hello)
        if recorder is None:
            return ""
        if hello.rank not in self._ranks[hello.run]:
            self._ranks[hello.run].add(hello.rank)
            recorder.add(hello, ())
        recorder.add(message, parts)
        return str(recorder.path)

    def end(self, run: str, reason: str) -> None:
        """Close the recorder of a run in another thread, because closing may wait for the disk."""
        recorder = self._open.pop(run, None)
        self._reported.discard(run)
        if recorder is not None:
            closer = threading.Thread(
                target=recorder.close, kwargs={"reason": reason}, name="gradscope-hub-close"
            )
            self._closing[run] = closer
            closer.start()

    def counters(self, run: str) -> dict[str, int]:
        """Return what is recorded of a run: the newest observed step on disk, and the messages that were dropped."""
        recorder = self._open.get(run)
        if recorder is None or recorder.recorded_step < 0:
            return {}
        dropped = recorder.counters["dropped"]
        return {"recorded_step": recorder.recorded_step, "recording_dropped": dropped}

    def new_failures(self) -> list[tuple[str, str]]:
        """Return the runs whose recording has failed since the last call, each with the reason."""
        failures = [
            (run, recorder.failure)
            for run, recorder in self._open.items()
            if recorder.failure is not None and run not in self._reported
        ]
        self._reported.update(run for run, _ in failures)
        return failures

    @property
    def are_closed(self) -> bool:
        """Whether all recorders are closed."""
        self._closing = {run: t for run, t in self._closing.items() if t.is_alive()}
        return not self._open and not self._closing

    def close(self, reason: str) -> None:
        """Close all recorders. Waits up to 5 s for each."""
        for run in list(self._open):
            self.end(run, reason)
        for closer in self._closing.values():
            closer.join(_CLOSE_S)

    def _begin(self, hello: Hello) -> "Recorder | None":
        closer = self._closing.get(hello.run)
        if hello.record == "" or (closer is not None and closer.is_alive()):
            return None  # not recorded, or its file is still being closed: it has one writer at a time
        from gradscope.recording import Recorder, default_path  # noqa: PLC0415 - loads sqlite3 and numpy

        path = Path(hello.record) if hello.record is not None else default_path(hello.run)
        recorder = self._open[hello.run] = Recorder(path, hello)
        self._ranks[hello.run] = {hello.rank}
        return recorder
