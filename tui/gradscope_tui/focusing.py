"""`Focusing`: the layer in detail is measured more often, for as long as this screen shows it.

It is asked for again every 20 s, in case the training process has taken this viewer for gone. A screen
that dies asks no more, and the training process ends the focus by itself.
"""

import time
from concurrent.futures import Future

from gradscope.errors import GradscopeError
from gradscope.protocol import Ack
from gradscope_tui.source import Source

__all__ = ["Focusing"]

_RENEWED_EVERY_S = 20.0


class Focusing:
    """What this viewer looks at. `refusal` says why the training process measures it no more often."""

    def __init__(self) -> None:
        self.refusal = ""
        self._source: Source | None = None
        self._layer: str | None = None
        self._asked_s = 0.0

    def follow(self, source: Source | None, layer: str | None) -> None:
        """Look at a layer, or with None at none."""
        if source is not self._source:
            self._source, self._layer = source, None
        if source is None:
            return
        now_s = time.monotonic()
        is_due = layer is not None and now_s - self._asked_s >= _RENEWED_EVERY_S
        if layer == self._layer and not is_due:
            return
        self._layer, self._asked_s, self.refusal = layer, now_s, ""
        try:
            future = source.submit("focus", layers=() if layer is None else (layer,))
        except GradscopeError as error:
            self.refusal = str(error)
            return
        future.add_done_callback(lambda done: self._settle(layer, done))

    def _settle(self, layer: str | None, done: "Future[Ack]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and layer == self._layer:
            self.refusal = str(error)
