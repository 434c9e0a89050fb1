"""The focus: layers whose statistics are also recorded in focus steps, between the observed steps.

    requested ──step boundary──▶ active ──removed, or the viewer disconnected──▶ ended

The focus contains the layers of all viewers and of the script. The sampler chooses the focus steps, and
the engine records them. A compiled model cannot have a focus, because the statistics that a graph
records are fixed at compile time.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.commands.queue import Boundary, Prepared, ignore_done
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.hooks import has_compiled
from gradscope.names import match_names
from gradscope.protocol import Command

__all__ = ["FOCUS_LIMIT", "VIEWER_TIMEOUT_S", "Focus"]

FOCUS_LIMIT: Final = 16
"""Maximum number of layers in the focus of one viewer or of the script."""

VIEWER_TIMEOUT_S: Final = 10.0
"""The focus of a viewer ends if the hub has not reported the viewer for this time, in seconds."""

_RETRY_S = 5.0
_SCRIPT = ""


class Focus(StepPlugin):
    """The layers in the focus, by owner: viewers and the script.

    `watched()` returns the names of all layers. `apply(layers)` sets the focus of the engine at a step
    boundary. `ask_to_end(viewer)` requests that all ranks end the focus of a viewer that has
    disconnected.
    """

    name = "the focus on layers"

    def __init__(self, run: RunContext, engine: StepEngine, commands: CommandDispatcher) -> None:
        self._run = run
        self._engine = engine
        self._commands = commands
        self._lock = threading.Lock()
        self._by_owner: dict[str, tuple[str, ...]] = {}
        self._seen_s: dict[str, float] = {}
        self._end_requested_s: dict[str, float] = {}
        self._active: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers in the focus from the next step on, in the order of the model."""
        with self._lock:
            wanted = {name for names in self._by_owner.values() for name in names}
        return (
            tuple(name for name in self._engine.tracker.watched_names if name in wanted)
            if wanted
            else ()
        )

    def check(self, patterns: object) -> tuple[str, ...]:
        """Return the layers that match `patterns`. Raises UsageError if these layers cannot have a focus."""
        if has_compiled():
            raise UsageError(
                "focus() does not work with torch.compile: what a graph reports is fixed at compile time. "
                "The whole model is still observed within the budget"
            )
        chosen = tuple(match_names(patterns, self._engine.tracker.watched_names))
        if len(chosen) > FOCUS_LIMIT:
            raise UsageError(
                f"expected at most {FOCUS_LIMIT} layers in a focus, but {patterns!r} matches {len(chosen)}; "
                "name fewer, or attach with layers=… to observe only those"
            )
        return chosen

    def set_layers(self, layers: tuple[str, ...], owner: str = _SCRIPT) -> None:
        """Set the layers in the focus of `owner`, from the next step on. An empty tuple ends that focus."""
        with self._lock:
            if layers:
                self._by_owner[owner] = layers
            else:
                self._by_owner.pop(owner, None)
                self._seen_s.pop(owner, None)
                self._end_requested_s.pop(owner, None)
        self._run.plan_again()

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return the function for a viewer's command, and for the run's own one that ends the focus of `target`."""
        return {"focus": self._prepare}

    def _prepare(self, command: Command) -> Prepared:
        owner = command.peer or command.target
        layers = self.check(command.layers) if command.layers else ()

        def apply(command_slot: Boundary) -> None:
            self.set_layers(layers, owner)
            if layers and command_slot.done is not ignore_done:  # on the rank that received the command
                self._seen_s[owner] = time.monotonic()
            command_slot.done(command_slot.step, layers=layers)

        return apply

    def on_viewers(self, viewers: Sequence[str]) -> None:
        """Record which viewers are connected."""
        now_s = time.monotonic()
        with self._lock:
            self._seen_s |= {viewer: now_s for viewer in viewers if viewer in self._seen_s}

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if a layer is in the focus, or was in the focus before."""
        return step if self._by_owner or self._active else None

    def at_boundary(self, step: int) -> None:  # noqa: ARG002 - the signature of a plugin
        """Apply requests, and end the focus of viewers that have disconnected."""
        if self._seen_s:
            self._end_vanished()
        layers = self.layers
        if layers != self._active:
            self._active = layers
            self._apply(layers)

    def _apply(self, layers: tuple[str, ...]) -> None:
        self._engine.focus(layers)
        watched = len(self._engine.tracker.watched_names)
        self._run.sampler.focus(len(layers) / max(1, watched))

    def _end_vanished(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            gone = [
                viewer
                for viewer, seen_s in self._seen_s.items()
                if now_s - seen_s > VIEWER_TIMEOUT_S
                and now_s - self._end_requested_s.get(viewer, -_RETRY_S) >= _RETRY_S
            ]
            self._end_requested_s |= dict.fromkeys(gone, now_s)
        for viewer in gone:
            self._commands.request("focus", target=viewer)
