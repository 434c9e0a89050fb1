"""What the shown step is compared with: a step that the person has marked, or another recorded run at the same step."""

import threading
from collections.abc import Callable
from pathlib import Path

from gradscope.comparison import Comparison, compare_runs, open_side
from gradscope.errors import GradscopeError
from gradscope_tui.replay import Replay
from gradscope_tui.store.measure import Frame

__all__ = ["MarkedStep", "OtherRun", "Reference"]


class MarkedStep:
    """A step that the person has marked. `words` names it, with its rank if there are several."""

    note = ""
    problem = ""
    comparison: Comparison | None = None

    def __init__(self, frame: Frame, words: str) -> None:
        self.frame: Frame | None = frame
        self.words = words

    def follow(self, step: int) -> None:
        """Do nothing: a marked step stays the same."""

    def close(self) -> None:
        """Nothing to close."""


class OtherRun:
    """Another recorded run, from `start` to `close`: its observed step that is nearest before the shown one.

    `own` is the recording of the shown run, if there is one: then the first difference between the two is searched for
    in a thread, and is in `comparison`. notify: called in a thread when there is something new.
    """

    def __init__(self, path: Path, notify: Callable[[], object], *, own: Path | None) -> None:
        self.frame: Frame | None = None
        self.comparison: Comparison | None = None
        self.problem = ""
        self._path, self._own, self._notify = path, own, notify
        self._replay = Replay(path, notify, step=0)
        self._thread = threading.Thread(target=self._compare, name="gradscope-compare", daemon=True)

    def start(self) -> None:
        """Open the recording, and search for the first difference."""
        self._replay.start()
        if self._own is not None:
            self._thread.start()

    def close(self) -> None:
        """End the threads. The search for a difference is waited for."""
        self._replay.stop()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def words(self) -> str:
        """The name of the other run, and its step that is shown."""
        run = self._replay.run
        name = run.run if run is not None else self._path.stem
        return name if self.frame is None else f"{name} at step {self.frame.measured.step:,}"

    @property
    def note(self) -> str:
        """Where the runs begin to differ; empty if that is not known."""
        if self.problem or self._replay.problem:
            return self._replay.problem or f"not compared: {self.problem}"
        if self.comparison is None:
            return "" if self._own is None else "searching for the first difference…"
        first = self.comparison.first
        if first is None:
            return f"no difference in {self.comparison.steps:,} common observed steps"
        where = f"{first.stage}, {first.layer or 'the model'} ({first.kind})"
        return f"first difference: step {first.step:,}, {where}"

    def follow(self, step: int) -> None:
        """Go to the observed step nearest before the shown one; the frame arrives later."""
        run = self._replay.run
        store = self._replay.take_store()
        if store is not None:
            self.frame = store.frame()
        if run is None or not run.steps:
            return
        place = run.place_of(step)
        if run.steps[place] > step and place:
            place -= 1
        if place != self._replay.place:
            self._replay.go_to(place)

    def _compare(self) -> None:
        try:
            with open_side(str(self._own)) as one, open_side(str(self._path)) as two:
                self.comparison = compare_runs(one, two)
        except GradscopeError as error:
            self.problem = str(error)
        self._notify()


Reference = MarkedStep | OtherRun
