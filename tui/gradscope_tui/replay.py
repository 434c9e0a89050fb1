"""`Replay` shows a recording: the position, and the thread that reads the steps around it. Nothing is sent to a run."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gradscope.errors import RecordingError
from gradscope.protocol import RunInfo, Step
from gradscope.recording import open_recording
from gradscope_tui.store.recorded import RecordedRun
from gradscope_tui.store.run import RunStore
from gradscope_tui.store.timeline import Timeline

__all__ = ["Replay"]

_PLAY_S = 0.25
"""The time from one observed step to the next while it plays, in seconds."""


_QUIET_S = 0.6
"""Earlier steps are read after this time without another position: else they delay the next one."""


class Replay:
    """One open recording, from `start` to `stop`.

    The thread reads the recording and makes the store of the position; the newest position wins. It calls `notify()`
    when `take_store` or `take_steps` have something new, and when `problem` changes. All methods are for the app's
    thread. `place` is the wanted position; `shown_step` the observed step that is shown, which is an earlier one if the
    file is damaged there.
    """

    def __init__(self, path: Path, notify: Callable[[], object], *, step: int | None = None) -> None:
        self.path = path
        self.run: RecordedRun | None = None
        self.problem = ""
        self.place = 0
        self.is_playing = False
        self.shown_step: int | None = None
        self._first_step = step
        self._notify = notify
        self._rank: int | None = None
        self._changed = threading.Condition()
        self._wanted: int | None = None
        self._is_stopped = False
        self._store: tuple[int, RunStore] | None = None
        self._earlier: deque[tuple[Step, ...]] = deque()
        self._shown_place: int | None = None
        self._played_s = 0.0
        self._thread = threading.Thread(target=self._read, name="gradscope-replay", daemon=True)

    def start(self) -> None:
        """Open the recording in the thread, at the wanted step or at its end."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has closed the file."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def infos(self) -> tuple[RunInfo, ...]:
        """The ranks of the run, as a hub lists them."""
        return self.run.infos if self.run else ()

    @property
    def shown_place(self) -> int | None:
        """The position of the store that is shown; None before the first one."""
        return self._shown_place

    @property
    def timeline(self) -> Timeline | None:
        """The steps of the recording and the shown position; None before the first one is shown."""
        if self.run is None or self._shown_place is None:
            return None
        run = self.run
        return Timeline(
            run.steps,
            run.first,
            run.last,
            self._shown_place,
            self.shown_step,
            run.landmarks,
            self.is_playing,
        )

    def move(self, distance: int) -> None:
        """Go some observed steps forward or back."""
        self.go_to(self.place + distance)

    def jump(self, end: int) -> None:
        """Go to the first observed step, 0, or to the last, -1."""
        if self.run is not None:
            self.go_to(0 if end == 0 else self.run.last_place)

    def go_to(self, place: int) -> None:
        """Go to a position; to the nearest one if it is out of range."""
        if self.run is None:
            return
        self.place = max(0, min(place, self.run.last_place))
        with self._changed:
            self._wanted = self.place
            self._changed.notify()

    def select_rank(self, rank: int | None) -> None:
        """Make stores with this selection of ranks from now on."""
        self._rank = rank

    def toggle_play(self) -> None:
        """Play from here on, or from the beginning if this is the end; or stop."""
        self.is_playing = not self.is_playing and self.run is not None
        if self.is_playing and self.run is not None and self.place == self.run.last_place:
            self.go_to(0)

    def tick(self) -> None:
        """Go on playing, if the step before is shown already. Called by the clock of the screen."""
        if not self.is_playing or self.run is None or self._shown_place != self.place:
            return
        if self.place == self.run.last_place:
            self.is_playing = False
        elif time.monotonic() - self._played_s >= _PLAY_S * 0.9:
            self._played_s = time.monotonic()
            self.move(1)

    def take_store(self) -> RunStore | None:
        """Return the newest store that was not taken yet; None if there is none."""
        with self._changed:
            made, self._store = self._store, None
        if made is None:
            return None
        self._shown_place = made[0]
        newest = made[1].newest
        self.shown_step = newest.step if newest else None
        return made[1]

    def take_steps(self) -> tuple[Step, ...]:
        """Return the next earlier step of the store that was taken last, as a message for each rank."""
        with self._changed:
            is_waiting = self._store is not None
            return () if is_waiting or not self._earlier else self._earlier.popleft()

    # All below runs in the thread.

    def _read(self) -> None:
        try:
            with open_recording(self.path) as recording:
                run = RecordedRun(recording)
                self.place = (
                    run.last_place if self._first_step is None else run.place_of(self._first_step)
                )
                self._wanted = self.place
                self.run = run
                while (place := self._next_place()) is not None:
                    self._make(run, place)
        except RecordingError as error:
            self.problem = str(error)
            self._notify()

    def _next_place(self) -> int | None:
        """Wait for the next wanted position; None at the end."""
        with self._changed:
            while self._wanted is None and not self._is_stopped:
                self._changed.wait()
            place, self._wanted = self._wanted, None
            return None if self._is_stopped else place

    def _make(self, run: RecordedRun, place: int) -> None:
        store = run.store_at(place, self._rank)
        with self._changed:
            self._store = place, store
            self._earlier.clear()
        self._notify()
        with self._changed:
            is_busy = self._changed.wait_for(
                lambda: self._wanted is not None or self._is_stopped, _QUIET_S
            )
            if is_busy or self.is_playing:
                return
        found: dict[int, list[Step]] = {}
        for message in run.earlier_steps(place):
            found.setdefault(message.step, []).append(message)
        with self._changed:
            if self._wanted is None:
                self._earlier.extend(tuple(found[step]) for step in sorted(found, reverse=True))
        self._notify()
