"""Leases of this viewer: the pause and the focus.

A lease expires unless this viewer renews it, so the training process ends both if the viewer is killed.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal

from gradscope.errors import GradscopeError
from gradscope.protocol import Ack, Command, PauseState
from gradscope_tui.source import NO_LINK, UNADDRESSED, Source

__all__ = ["FocusLease", "PauseLease"]

_PAUSE_S = 60.0
_RENEWAL_S = 20.0

_DONE = {
    "measure": "memory and time measured in step {}",
    "undo": "training state restored to before the first intervention, from step {} on",
}
"""The log lines of this viewer. The training process reports pauses itself."""

Action = Literal["pause", "resume", "step_once", "undo", "measure"]


class PauseLease:
    """Whether this viewer holds a pause, and the commands that start and end one.

    `on_answer(text, is_done)` reports each answer, in any thread.
    """

    def __init__(self, on_answer: Callable[[str, bool], object]) -> None:
        self._on_answer = on_answer
        self._is_held = False
        self._renewed_s = 0.0

    def send(self, source: Source | None, action: Action) -> None:
        """Send a command. A pause, or a single step of a paused run, starts a lease of 60 s."""
        if action in ("pause", "step_once"):
            self._is_held = True
        elif action == "resume":
            self._is_held = False
        self._renewed_s = time.monotonic()
        self._send(source, action, is_reported=True)

    def renew(self, source: Source | None, pause: PauseState | None) -> None:
        """Renew the lease every 20 s if this viewer holds the pause."""
        if not self._is_held or pause is None or source is None:
            return
        if time.monotonic() - self._renewed_s >= _RENEWAL_S:
            self._renewed_s = time.monotonic()
            self._send(source, "pause", is_reported=False)

    def _send(self, source: Source | None, action: Action, *, is_reported: bool) -> None:
        words = action.replace("_", " ")
        if source is None:
            self._on_answer(f"{words}: {NO_LINK}", False)
            return
        lease_s = _PAUSE_S if action in ("pause", "step_once") else None
        try:
            future = source.send(Command(action=action, lease_s=lease_s, **UNADDRESSED))
        except GradscopeError as error:
            self._on_answer(f"{words}: {error}", False)
            return
        future.add_done_callback(lambda done: self._on_done(action, done, is_reported=is_reported))

    def _on_done(self, action: Action, done: "Future[Ack]", *, is_reported: bool) -> None:
        error = done.exception()
        if error is not None:
            self._is_held = False
            self._on_answer(f"{action.replace('_', ' ')}: refused: {error}", False)
        elif is_reported:
            self._on_answer(_DONE.get(action, "").format(f"{done.result().step:,}"), True)


class FocusLease:
    """The layer in the focus of this viewer. If the focus was refused, `refusal` has the reason."""

    def __init__(self) -> None:
        self.refusal = ""
        self._source: Source | None = None
        self._layer: str | None = None
        self._sent_s = 0.0

    def hold(self, source: Source | None, layer: str | None) -> None:
        """Set the layer in the focus, or None. Send a command if it changed or 20 s have passed."""
        if source is not self._source:
            self._source, self._layer = source, None
        if source is None:
            return
        now_s = time.monotonic()
        is_due = layer is not None and now_s - self._sent_s >= _RENEWAL_S
        if layer == self._layer and not is_due:
            return
        self._layer, self._sent_s, self.refusal = layer, now_s, ""
        try:
            layers = () if layer is None else (layer,)
            future = source.send(Command(action="focus", layers=layers, **UNADDRESSED))
        except GradscopeError as error:
            self.refusal = str(error)
            return
        future.add_done_callback(lambda done: self._on_done(layer, done))

    def _on_done(self, layer: str | None, done: "Future[Ack]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and layer == self._layer:
            self.refusal = str(error)
