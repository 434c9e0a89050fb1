"""The focus: layers that somebody looks at, measured alone in steps between the observed ones.

    asked for ──a boundary──▶ in force ──taken back, or its viewer vanished──▶ gone

What several viewers and the script ask for adds up. The sampler says in which steps; what such a
focus step measures is the engine's. Under torch.compile there is none: graphs know nothing of it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from gradscope.agent.commands.queue import Prepared, QueuedCommand, nothing_to_tell
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.hooks import has_compiled
from gradscope.names import match_names
from gradscope.protocol import Command

__all__ = ["FOCUS_LIMIT", "VANISHED_S", "Focus"]

FOCUS_LIMIT: Final = 16
"""The most layers that one viewer, or the script, may look at."""

VANISHED_S: Final = 10.0
"""A viewer of whom nothing was heard for so long looks no more."""

_ASK_AGAIN_S = 5.0
_SCRIPT = ""


class Focus(StepPlugin):
    """Who looks at which layers.

    `watched` gives the names of the layers that can be looked at, `apply` takes all that are, between
    two steps, `ask_to_end` has all ranks end the focus of a viewer that has vanished.
    """

    name = "the focus on layers"

    def __init__(
        self,
        watched: Callable[[], Sequence[str]],
        apply: Callable[[tuple[str, ...]], None],
        ask_to_end: Callable[[str], None],
    ) -> None:
        self._watched = watched
        self._apply = apply
        self._ask_to_end = ask_to_end
        self._lock = threading.Lock()
        self._of: dict[str, tuple[str, ...]] = {}
        self._seen_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}
        self._in_force: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that are looked at, from the next step on, in the order of the model."""
        with self._lock:
            wanted = {name for names in self._of.values() for name in names}
        return tuple(name for name in self._watched() if name in wanted) if wanted else ()

    def check(self, patterns: object) -> tuple[str, ...]:
        """Return the layers that patterns choose. Raises UsageError for what cannot be looked at."""
        if has_compiled():
            raise UsageError(
                "there is no focus on layers of a compiled model: what its graphs show is decided when "
                "they are made; it is observed as a whole, as the budget allows"
            )
        chosen = tuple(match_names(patterns, self._watched()))
        if len(chosen) > FOCUS_LIMIT:
            raise UsageError(
                f"a focus has at most {FOCUS_LIMIT} layers, and {patterns!r} chooses {len(chosen)}: "
                "name fewer, or attach with layers=… and observe these alone"
            )
        return chosen

    def put(self, layers: tuple[str, ...], owner: str = _SCRIPT) -> None:
        """Let somebody look at these layers, and no others, from the next step on."""
        with self._lock:
            if layers:
                self._of[owner] = layers
            else:
                self._of.pop(owner, None)
                self._seen_s.pop(owner, None)
                self._asked_s.pop(owner, None)
        self.wake()

    def prepare(self, command: Command) -> Prepared:
        """Prepare a viewer's command, or the run's own that ends the focus of the one in `target`."""
        owner = command.peer or command.target
        layers = self.check(command.layers) if command.layers else ()

        def apply(turn: QueuedCommand) -> None:
            self.put(layers, owner)
            if layers and turn.done is not nothing_to_tell:  # on the rank that heard it itself
                self._seen_s[owner] = time.monotonic()
            turn.done(turn.step, layers=layers)

        return apply

    def see_viewers(self, viewers: Sequence[str]) -> None:
        """Note that viewers are alive now."""
        now_s = time.monotonic()
        with self._lock:
            self._seen_s |= {viewer: now_s for viewer in viewers if viewer in self._seen_s}

    def at_boundary(self, step: int) -> None:  # noqa: ARG002 - a part's shape
        """Put in force what is asked for, and have ended what nobody looks at any more."""
        self.rest_unless(lambda: self._of or self._in_force)
        if self._seen_s:
            self._end_vanished()
        layers = self.layers
        if layers != self._in_force:
            self._in_force = layers
            self._apply(layers)

    def _end_vanished(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            gone = [
                viewer
                for viewer, seen_s in self._seen_s.items()
                if now_s - seen_s > VANISHED_S
                and now_s - self._asked_s.get(viewer, -_ASK_AGAIN_S) >= _ASK_AGAIN_S
            ]
            self._asked_s |= dict.fromkeys(gone, now_s)
        for viewer in gone:
            self._ask_to_end(viewer)
