"""The ledger: the pending and active interventions, their layers, who set each, and when each ends.

    request ──▶ pending ──step boundary──▶ active ──removed, or expired──▶ ended

Requests may come from any thread and are checked when they are made. They take effect only in `settle`,
which the training thread calls between two steps. If a layer has several interventions, they apply to
the gradient in the order in which they were set. An active intervention need not act in every step.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gradscope.catalogue import Value
from gradscope.errors import UsageError
from gradscope.intervene.actions import Action
from gradscope.intervene.active import ActiveIntervention
from gradscope.intervene.audit_log import AuditLog, What
from gradscope.intervene.schedule import is_over
from gradscope.names import counted
from gradscope.protocol import Schedule, schedule_in_words

__all__ = ["VANISHED_AFTER_S", "End", "InterventionRequest", "Ledger", "LedgerEntry"]

_NAMED = 5
"""How many layers the description of an intervention names."""

VANISHED_AFTER_S = 60.0
"""How long an intervention stays after its viewer has disconnected, in seconds, unless it is kept."""


@dataclass(frozen=True, slots=True)
class End:
    """When an intervention ends: after N steps, after some seconds, or when a viewer has disconnected.

    By default it stays until it is removed. Raises UsageError if a duration is not greater than 0.
    """

    steps: int | None = None
    seconds: float | None = None
    viewer: str | None = None

    def __post_init__(self) -> None:
        for unit, value in (("steps", self.steps), ("seconds", self.seconds)):
            if value is not None and not value > 0:
                raise UsageError(f"an intervention must last more than 0 {unit}, got {value!r}")

    def __str__(self) -> str:
        """Describe the end; empty if there is none."""
        words = []
        if self.steps is not None:
            words.append(f"for {counted(self.steps, 'step')}")
        if self.seconds is not None:
            words.append(f"for {self.seconds:g} s")
        if self.viewer is not None:
            words.append("while its viewer is connected")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class InterventionRequest:
    """A checked request for an intervention. `origin` is the place in the code that set it."""

    action: Action
    arguments: dict[str, Value]
    layers: tuple[str, ...]
    site: str
    set_by: str
    end: End
    schedule: Schedule = field(default_factory=Schedule)
    origin: str = ""

    def __str__(self) -> str:
        """Describe the request: `clip(max_norm=1) on fc1, fc2 at output, every 10 steps`."""
        given = ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.arguments.items()
        )
        names = [name or "the whole model" for name in self.layers]
        rest = len(names) - _NAMED
        where = ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        when = schedule_in_words(self.schedule)
        return f"{self.action.spec.name}({given}) on {where} at {self.site}" + (when and f", {when}")


@dataclass(slots=True)
class LedgerEntry:
    """One intervention. `active_since`: the first step in which it is in force; None while pending."""

    id: str
    request: InterventionRequest
    intervention: ActiveIntervention = field(repr=False)
    active_since: int | None = None
    active_at_s: float = 0.0
    is_removed: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers on which the intervention acts."""
        return self.request.layers


_Done = Callable[[int], None]
_Change = Callable[[int], bool]


class Ledger:
    """All interventions of one run. `revision` counts the changes that took effect.

    on_request: called at each request, in the requesting thread.
    on_change: called in `settle` after a change, before the `done` callbacks.
    on_failure(entry, reason): called in any thread when an intervention has failed. It must remove the
        intervention.
    on_expired(entry): called at every boundary for an expired entry until the entry is removed. Set if
        all ranks must agree on time-based expiry.
    history: the audit log.
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        on_request: Callable[[], None] | None = None,
        on_change: Callable[[], None] | None = None,
        on_failure: Callable[[LedgerEntry, str], None] | None = None,
        history: AuditLog | None = None,
    ) -> None:
        self.revision = 0
        self.history = history or AuditLog()
        self._rank = rank
        self._step = 0
        self._on_request = on_request or (lambda: None)
        self._on_change = on_change
        self.on_failure = on_failure or self._remove_failed
        self.on_expired: Callable[[LedgerEntry], None] | None = None
        self._numbers = itertools.count(1)
        self._active: dict[str, LedgerEntry] = {}
        self._acting: tuple[str, ...] = ()
        self._requests: deque[tuple[_Change, _Done]] = deque()
        self._pending: dict[str, LedgerEntry] = {}
        self._viewers_seen_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def install(
        self,
        request: InterventionRequest,
        done: Callable[[LedgerEntry, int], None],
        label: str | None = None,
    ) -> LedgerEntry:
        """Request the installation of a checked intervention.

        `done(entry, step)` is called in `settle`, when the intervention is in force. `label` becomes
        part of the id and must be the same on all ranks; without it, the ledger uses a counter.
        """
        id = f"{request.action.spec.name}-{label or next(self._numbers)}"
        intervention = ActiveIntervention(
            request.action,
            request.arguments,
            schedule=request.schedule,
            seed=int(request.arguments.get("seed", 0)),
            rank=self._rank,
            on_failure=lambda reason: self._note_failure(entry, reason),
        )
        entry = LedgerEntry(id, request, intervention)
        if request.end.viewer is not None:
            self.note_viewers([request.end.viewer])
        with self._lock:
            self._pending[id] = entry
            activate = lambda step: self._activate(entry, step)  # noqa: E731 - one of a pair
            self._requests.append((activate, lambda step: done(entry, step)))
        self._on_request()
        return entry

    def remove(self, id: str, done: _Done, *, by: str = "") -> bool:
        """Request a removal. Return False if there is no such intervention."""
        with self._lock:
            if id not in self._active and id not in self._pending:
                return False
            take_off = lambda step: self._deactivate(id, step, "removed", by)  # noqa: E731 - as above
            self._requests.append((take_off, done))
        self._on_request()
        return True

    def remove_all(self, done: _Done, *, by: str = "") -> None:
        """Request the removal of all interventions that exist when the request takes effect."""
        with self._lock:
            self._requests.append((lambda step: self._clear(step, by), done))
        self._on_request()

    @property
    def is_idle(self) -> bool:
        """Whether there is no active intervention and no request."""
        return not self._requests and not self._active

    def settle(self, step: int) -> bool:
        """Apply requests and expiry before `step` begins.

        Returns whether the interventions that act in `step` differ from those of the previous step.
        """
        if self.is_idle:
            return False
        self._step = step
        self._report_expired()
        with self._lock:
            requests = list(self._requests)
            self._requests.clear()
            changed = self._expire(step)
            for change, _ in requests:
                changed |= change(step)
            self.revision += changed
            was_acting, self._acting = self._acting, self._begin(step)
        if changed and self._on_change is not None:
            self._on_change()
        for _, done in requests:
            done(step)
        return changed or self._acting != was_acting

    def note_viewers(self, viewers: Sequence[str]) -> None:
        """Record which viewers are connected."""
        now_s = time.monotonic()
        for viewer in viewers:
            self._viewers_seen_s[viewer] = now_s

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return the active and pending entries, in the order in which they were set."""
        with self._lock:
            return (*self._active.values(), *self._pending.values())

    def active(self) -> tuple[LedgerEntry, ...]:
        """Return the active entries. Only for the thread that calls `settle`."""
        return tuple(self._active.values())

    def by_layer(self, site: str) -> dict[str, tuple[ActiveIntervention, ...]]:
        """Return, for each layer, the interventions that act at a site in this step, in order."""
        chains: dict[str, list[ActiveIntervention]] = {}
        for entry in self.acting():
            if entry.request.site == site:
                for layer in entry.layers:
                    chains.setdefault(layer, []).append(entry.intervention)
        return {layer: tuple(chain) for layer, chain in chains.items()}

    def acting(self) -> tuple[LedgerEntry, ...]:
        """Return the entries that act in this step, in the order in which they were set."""
        return tuple(self._active[id] for id in self._acting if id in self._active)

    def _begin(self, step: int) -> tuple[str, ...]:
        """Begin a step; return the ids of the entries that act in it."""
        active = self._active.values()
        return tuple(e.id for e in active if e.intervention.begin(_since(e, step), step))

    def _activate(self, entry: LedgerEntry, step: int) -> bool:
        if self._pending.pop(entry.id, None) is None:
            return False
        entry.active_since = max(step, entry.request.schedule.start_step or 0)
        entry.active_at_s = time.monotonic()
        self._active[entry.id] = entry
        self._add_to_history(
            entry, entry.active_since, "set", entry.request.set_by, entry.request.origin
        )
        return True

    def _deactivate(self, id: str, step: int, what: What, by: str) -> bool:
        entry = self._active.pop(id, None) or self._pending.pop(id, None)
        if entry is None:
            return False
        entry.is_removed = True
        self._add_to_history(entry, step, what, by, "")
        return True

    def _add_to_history(self, entry: LedgerEntry, step: int, what: What, by: str, origin: str) -> None:
        self.history.add(step, what, entry.id, str(entry.request), by, origin)

    def _clear(self, step: int, by: str) -> bool:
        ids = [*self._active, *self._pending]
        return any([self._deactivate(id, step, "removed", by) for id in ids])  # noqa: C419 - all of them, not until the first

    def _note_failure(self, entry: LedgerEntry, reason: str) -> None:
        self._add_to_history(entry, self._step, "failed", "", reason)
        self.on_failure(entry, reason)

    def _remove_failed(self, entry: LedgerEntry, _reason: str) -> None:
        self.remove(entry.id, lambda _step: None, by="gradscope")

    def _report_expired(self) -> None:
        if self.on_expired is not None:
            for entry in [each for each in self._active.values() if self._is_timed_out(each)]:
                self.on_expired(entry)

    def _expire(self, step: int) -> bool:
        ends_alone = self.on_expired is None
        over = [
            entry.id
            for entry in self._active.values()
            if _has_run_out(entry, step) or (ends_alone and self._is_timed_out(entry))
        ]
        for id in over:
            self._deactivate(id, step, "ended", "")
        return bool(over)

    def _is_timed_out(self, entry: LedgerEntry) -> bool:
        now_s, end = time.monotonic(), entry.request.end
        if end.seconds is not None and now_s - entry.active_at_s >= end.seconds:
            return True
        seen_s = self._viewers_seen_s.get(end.viewer or "", entry.active_at_s)
        return end.viewer is not None and now_s - seen_s >= VANISHED_AFTER_S


def _has_run_out(entry: LedgerEntry, step: int) -> bool:
    steps = entry.request.end.steps
    has_lasted = steps is not None and step - _since(entry, step) >= steps
    return has_lasted or is_over(entry.request.schedule, step)


def _since(entry: LedgerEntry, step: int) -> int:
    return step if entry.active_since is None else entry.active_since
