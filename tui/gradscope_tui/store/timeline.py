"""`Timeline`: the steps that can be shown, the position among them, and where findings and interventions begin."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gradscope.findings import Finding
from gradscope.findings.text import SIGNS, first_line
from gradscope.protocol import InterventionState
from gradscope_tui.view.intervention_text import intervention_line

__all__ = ["Landmark", "Timeline", "landmarks_of", "place_of"]

_GRAVITY = {"✖": 0, "▲": 1, "≠": 1, "◆": 2}


@dataclass(frozen=True, slots=True)
class Landmark:
    """A step to jump to: where a finding or an intervention begins. `place` is the position that shows it."""

    step: int
    place: int
    sign: str
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """`place` is the position of the shown step in `steps`; `first` and `last` are the ends of the line.

    shown_step: the step that is shown, an earlier one if that at `place` cannot be read; None: nothing.
    """

    steps: Sequence[int]
    first: int
    last: int
    place: int
    shown_step: int | None
    landmarks: Sequence[Landmark] = ()
    is_playing: bool = False
    is_live: bool = False

    @property
    def landmark(self) -> Landmark | None:
        """The finding or intervention that begins at the position; of several the gravest."""
        found = [mark for mark in self.landmarks if mark.place == self.place]
        return min(found, key=lambda mark: _GRAVITY.get(mark.sign, len(_GRAVITY)), default=None)

    @property
    def next_landmark(self) -> Landmark | None:
        """The first finding or intervention after the position."""
        return next((mark for mark in self.landmarks if mark.place > self.place), None)

    def place_of_landmark(self, direction: int) -> int | None:
        """Return the position of the next or previous finding or intervention; None if there is none."""
        ahead = {m.place for m in self.landmarks if (m.place - self.place) * direction > 0}
        return min(ahead, key=lambda place: abs(place - self.place), default=None)


def place_of(steps: Sequence[int], step: int) -> int:
    """Return the position of the first step that is not before `step`; the last one if there is none."""
    return max(0, min(bisect_left(steps, step), len(steps) - 1))


def landmarks_of(
    steps: Sequence[int], findings: Iterable[Finding], states: Iterable[InterventionState]
) -> Iterator[Landmark]:
    """Yield where findings and active interventions begin."""
    for finding in findings:
        step = finding.found_step if finding.since_step is None else finding.since_step
        if step is not None:
            yield Landmark(step, place_of(steps, step), SIGNS[finding.severity], first_line(finding))
    for state in states:
        if state.active_since is not None:
            step = state.active_since
            yield Landmark(step, place_of(steps, step), "◆", intervention_line(state))
