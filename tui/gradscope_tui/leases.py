"""Leases of this viewer: the pause and the focus.

A lease expires unless this viewer renews it, so the training process ends both if the viewer is killed.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from gradscope.protocol import Ack, Command, PauseState
from gradscope_tui.source import Source, send_command

__all__ = ["FocusLease", "PauseLease"]

_PAUSE_S = 60.0
_RENEWAL_S = 20.0

_DONE = {
    "measure": "memory and time measured in step {:,}",
    "undo": "training state restored to before the first intervention, from step {:,} on",
}
"""The log lines of this viewer. The training process reports pauses itself."""

Action = Literal["pause", "resume", "step_once", "undo", "measure"]


class PauseLease:
    """Whether this viewer holds a pause, and the commands that start and end one.

    `report(text, step, is_done=…)` is called with each answer, in any thread.
    """

    def __init__(self, report: Callable[..., object]) -> None:
        self._report = report
        self._is_held = False
        self._renewed_s = 0.0

    def send(self, source: "Source | None", action: Action) -> None:
        """Send a command. A pause, or a single step of a paused run, starts a lease of 60 s."""
        if action in ("pause", "step_once"):
            self._is_held = True
        elif action == "resume":
            self._is_held = False
        self._renewed_s = time.monotonic()
        self._send(source, action, is_reported=True)

    def renew(self, source: "Source | None", pause: PauseState | None) -> None:
        """Renew the lease every 20 s if this viewer holds the pause."""
        if not self._is_held or pause is None or source is None:
            return
        if time.monotonic() - self._renewed_s >= _RENEWAL_S:
            self._renewed_s = time.monotonic()
            self._send(source, "pause", is_reported=False)

    def _send(self, source: "Source | None", action: Action, *, is_reported: bool) -> None:
        lease_s = _PAUSE_S if action in ("pause", "step_once") else None
        command = Command(action=action, lease_s=lease_s)
        send_command(source, command, partial(self._note_answer, action, is_reported=is_reported))

    def _note_answer(self, action: Action, ack: Ack | None, reason: str, *, is_reported: bool) -> None:
        if ack is None:
            self._is_held = False
            self._report(f"{action.replace('_', ' ')}: refused: {reason}", None, is_done=False)
        elif is_reported:
            self._report(_DONE.get(action, "").format(ack.step), ack.step, is_done=True)


class FocusLease:
    """Asks the training process to record one layer in more steps (the focus), and renews or ends that request.

    `refusal` is the reason if the training process refused it.
    """

    def __init__(self) -> None:
        self.refusal = ""
        self._source: Source | None = None
        self._layer: str | None = None
        self._sent_s = 0.0

    def hold(self, source: "Source | None", layer: str | None) -> None:
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
        layers = () if layer is None else (layer,)
        command = Command(action="focus", layers=layers)
        send_command(source, command, partial(self._note_answer, layer))

    def _note_answer(self, layer: str | None, ack: Ack | None, reason: str) -> None:
        if ack is None and layer == self._layer:
            self.refusal = reason
