"""`PauseLease`: whether this viewer holds the training, and renewing its lease for as long as it does.

A pause is asked for once and then renewed while this screen is open. A screen that dies renews nothing,
and the training goes on when the lease ends.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future

from gradscope.catalogue import CommandName
from gradscope.errors import GradscopeError
from gradscope.protocol import Ack, PauseState
from gradscope_tui.source import Source

__all__ = ["PauseLease"]

_LEASE_S = 60.0
_RENEWED_EVERY_S = 20.0

# The training tells all viewers of its pauses itself.
_DONE = {
    "measure": "memory and time: measured in step {}",
    "undo": "back to the state of before the first intervention, from step {} on",
}


class PauseLease:
    """What this viewer asked for. `tell(text, is_done)` says what came of it, from any thread."""

    def __init__(self, tell: Callable[[str, bool], object]) -> None:
        self._tell = tell
        self._is_held = False
        self._renewed_s = 0.0

    def ask(self, source: Source | None, wish: CommandName) -> None:
        """Ask for a pause, its end, one step, the way back, or a measured step."""
        self._is_held = wish in ("pause", "step_once") or (
            self._is_held and wish in ("undo", "measure")
        )
        self._renewed_s = time.monotonic()
        self._send(source, wish, is_told=True)

    def renew(self, source: Source | None, pause: PauseState | None) -> None:
        """Renew the lease of a pause that this viewer asked for, some time before it ends."""
        if not self._is_held or pause is None or source is None:
            return
        if time.monotonic() - self._renewed_s >= _RENEWED_EVERY_S:
            self._renewed_s = time.monotonic()
            self._send(source, "pause", is_told=False)

    def _send(self, source: Source | None, wish: CommandName, *, is_told: bool) -> None:
        if source is None:
            self._tell(f"{wish}: there is no link to the training process", False)
            return
        lease_s = _LEASE_S if wish in ("pause", "step_once") else None
        try:
            future = source.submit(wish, lease_s=lease_s)
        except GradscopeError as error:
            self._tell(f"{wish}: {error}", False)
            return
        future.add_done_callback(lambda done: self._settle(wish, done, is_told=is_told))

    def _settle(self, wish: CommandName, done: "Future[Ack]", *, is_told: bool) -> None:
        error = done.exception()
        if error is not None:
            self._is_held = False
            self._tell(f"{wish.replace('_', ' ')}: refused: {error}", False)
        elif is_told:
            self._tell(_DONE.get(wish, "").format(f"{done.result().step:,}"), True)
