"""The ledger: which interventions are in force on which layers, who set each, and when each ends.

    request ──▶ pending ──step boundary──▶ active ──removed, or its end has come──▶ gone

Requests may come from any thread and are checked when they are made. They take effect only in
`settle`, which the training thread calls between two steps. On a layer with several, the gradient
passes them in the order in which they were set.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from gradscope.intervene.actions import Action

__all__ = ["VANISHED_AFTER_S", "Applied", "End", "Entry", "Ledger"]

VANISHED_AFTER_S = 60.0
"""How long an intervention outlives the viewer that set it, unless it was to be kept."""


@dataclass(frozen=True, slots=True)
class End:
    """When an intervention ends by itself: after steps, after seconds, or when a viewer has vanished.

    With none of them it stays until it is removed.
    """

    steps: int | None = None
    seconds: float | None = None
    viewer: str | None = None

    def __str__(self) -> str:
        """Say it in words; empty where it has no end."""
        words = []
        if self.steps is not None:
            words.append(f"for {self.steps} steps")
        if self.seconds is not None:
            words.append(f"for {self.seconds:g} s")
        if self.viewer is not None:
            words.append("while its viewer lives")
        return ", ".join(words)


class Applied:
    """An action with its arguments, ready to be laid over tensors. Owns its random generators."""

    def __init__(self, action: Action, arguments: Mapping[str, float], rank: int) -> None:
        self._action = action
        self._arguments = arguments
        self._seed = int(arguments.get("seed", 0)) + rank
        self._generators: dict[torch.device, torch.Generator] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the same values whose gradient is changed on its way back."""
        return self._action.apply(tensor, self._arguments, self._generator)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


@dataclass(slots=True)
class Entry:
    """One intervention. `active_since`: the first step in which it is in force; None while pending."""

    id: str
    action: Action
    arguments: dict[str, float]
    layers: tuple[str, ...]
    site: str
    set_by: str
    end: End
    applied: Applied = field(repr=False)
    active_since: int | None = None
    active_at_s: float = 0.0
    is_removed: bool = False


_Done = Callable[[int], None]


class Ledger:
    """All interventions of one run. `revision` counts the changes that took effect.

    `on_change` is called after each, before those who asked are told, from the thread that settles.
    """

    def __init__(self, *, rank: int = 0, on_change: Callable[[], None] | None = None) -> None:
        self.revision = 0
        self._rank = rank
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._active: dict[str, Entry] = {}
        self._requests: deque[tuple[Callable[[int], bool], _Done]] = deque()
        self._pending: dict[str, Entry] = {}
        self._viewers_seen_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def install(
        self,
        action: Action,
        arguments: dict[str, float],
        layers: Sequence[str],
        *,
        site: str,
        set_by: str,
        end: End,
        done: Callable[[Entry, int], None],
    ) -> Entry:
        """Ask for an intervention with checked arguments on layers that exist.

        `done(entry, step)` is called when it is in force, from the thread that settles.
        """
        applied = Applied(action, arguments, self._rank)
        name = f"{action.name}-{next(self._numbers)}"
        entry = Entry(name, action, arguments, tuple(layers), site, set_by, end, applied)
        if end.viewer is not None:
            self.see_viewers([end.viewer])
        with self._lock:
            self._pending[entry.id] = entry
            activate = lambda step: self._activate(entry, step)  # noqa: E731 - one of a pair
            self._requests.append((activate, lambda step: done(entry, step)))
        return entry

    def remove(self, id: str, done: _Done) -> bool:
        """Ask for a removal. Returns False where there is no such intervention."""
        with self._lock:
            if id not in self._active and id not in self._pending:
                return False
            self._requests.append((lambda _step: self._deactivate(id), done))
        return True

    def remove_all(self, done: _Done) -> None:
        """Ask for the removal of all that are in force when it takes effect."""
        with self._lock:
            self._requests.append((lambda _step: self._clear(), done))

    def settle(self, step: int) -> bool:
        """Let requests and ends take effect before `step` begins. Returns whether anything changed."""
        if not self._requests and not self._active:
            return False
        with self._lock:
            requests = list(self._requests)
            self._requests.clear()
            changed = self._expire(step)
            for change, _ in requests:
                changed |= change(step)
            self.revision += changed
        if changed and self._on_change is not None:
            self._on_change()
        for _, done in requests:
            done(step)
        return changed

    def see_viewers(self, viewers: Sequence[str]) -> None:
        """Note that viewers are alive now."""
        now_s = time.monotonic()
        for viewer in viewers:
            self._viewers_seen_s[viewer] = now_s

    def entries(self) -> tuple[Entry, ...]:
        """Return those in force and those pending, in the order in which they were set."""
        with self._lock:
            return (*self._active.values(), *self._pending.values())

    def active(self) -> tuple[Entry, ...]:
        """Return those in force; for the thread that settles."""
        return tuple(self._active.values())

    def by_layer(self) -> dict[str, tuple[Applied, ...]]:
        """Return, for each layer that has any, what acts there in the order of the gradient's way."""
        chains: dict[str, list[Applied]] = {}
        for entry in self._active.values():
            for layer in entry.layers:
                chains.setdefault(layer, []).append(entry.applied)
        return {layer: tuple(chain) for layer, chain in chains.items()}

    def _activate(self, entry: Entry, step: int) -> bool:
        if self._pending.pop(entry.id, None) is None:
            return False
        entry.active_since, entry.active_at_s = step, time.monotonic()
        self._active[entry.id] = entry
        return True

    def _deactivate(self, id: str) -> bool:
        entry = self._active.pop(id, None) or self._pending.pop(id, None)
        if entry is not None:
            entry.is_removed = True
        return entry is not None

    def _clear(self) -> bool:
        ids = [*self._active, *self._pending]
        return any([self._deactivate(id) for id in ids])  # noqa: C419 - all of them, not until the first

    def _expire(self, step: int) -> bool:
        over = [entry.id for entry in self._active.values() if self._is_over(entry, step)]
        for id in over:
            self._deactivate(id)
        return bool(over)

    def _is_over(self, entry: Entry, step: int) -> bool:
        now_s, end = time.monotonic(), entry.end
        since = entry.active_since if entry.active_since is not None else step
        if end.steps is not None and step - since >= end.steps:
            return True
        if end.seconds is not None and now_s - entry.active_at_s >= end.seconds:
            return True
        seen_s = self._viewers_seen_s.get(end.viewer or "", entry.active_at_s)
        return end.viewer is not None and now_s - seen_s >= VANISHED_AFTER_S
