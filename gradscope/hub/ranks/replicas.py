"""Compares the parameters of the ranks of each run, and makes an event of what it finds.

The ranks send the statistics of the same observed steps, so nothing else has to be sent.
"""

import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradscope.errors import GradscopeError
from gradscope.hub.history import Parts
from gradscope.protocol import Event, Hello, Manifest, Step, decode, unpack_layers

if TYPE_CHECKING:
    from gradscope.columns import RankAssembly
    from gradscope.rules import RankNumbers, ReplicaCheck

__all__ = ["Replicas"]

_FIRST = 32
_EVERY_S = 1.0
"""The first steps are compared at once, later ones once a second: to unpack and compare takes some milliseconds."""


@dataclass(slots=True)
class _Run:
    """What is known of one run."""

    assembly: "RankAssembly[Step]"
    check: "ReplicaCheck"
    names: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    """The names of the layers by rank and revision of the manifest."""
    early: list[Step] = field(default_factory=list)
    """The first steps of the first rank, until another one has joined."""
    numbers: "tuple[int, dict[int, RankNumbers]] | None" = None
    compared: int = 0
    due_s: float = 0.0


class Replicas:
    """Compares the ranks of the runs with several ranks on this hub."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def add_manifest(self, hello: Hello, parts: Parts) -> None:
        """Store the names of the layers of a rank."""
        if hello.world_size == 1:
            return
        message = decode(parts)
        if isinstance(message, Manifest):
            with suppress(GradscopeError):  # a faulty agent
                names = tuple(layer.name for layer in unpack_layers(message))
                self._run(hello.run).names[message.rank, message.revision] = names

    def add_step(self, hello: Hello, parts: Parts, ranks: Collection[int]) -> Event | None:
        """Add a step of a rank. Return an event if the ranks differ, once for each run.

        ranks: the ranks of the run on this hub that have sent this step or will.
        """
        run, is_alone = self._run(hello.run), len(ranks) == 1
        if is_alone and len(run.early) == _FIRST:  # the other ranks are on other hubs
            return None
        message = decode(parts)
        if not isinstance(message, Step):
            return None
        run.early.append(message)
        return None if is_alone else self._compare_complete(run, ranks)

    def _compare_complete(self, run: _Run, ranks: Collection[int]) -> Event | None:
        messages, run.early = run.early, []
        now_s = time.monotonic()
        for steps in (done for each in messages for done in run.assembly.add(each, ranks)):
            if len(steps) < len(ranks) or (run.compared >= _FIRST and now_s < run.due_s):
                continue
            run.compared, run.due_s = run.compared + 1, now_s + _EVERY_S
            event = _compare(run, steps)
            if event is not None:
                return event
        return None

    def numbers(self, run: str) -> "tuple[int, dict[int, RankNumbers]] | None":
        """Return the newest compared step, and the numbers of each rank in it; None if none was compared."""
        return self._runs[run].numbers if run in self._runs else None

    def end(self, run: str) -> None:
        """Forget a run."""
        self._runs.pop(run, None)

    def _run(self, run: str) -> _Run:
        if run not in self._runs:
            from gradscope.columns import RankAssembly  # noqa: PLC0415 - loads NumPy
            from gradscope.rules import ReplicaCheck  # noqa: PLC0415 - as above

            self._runs[run] = _Run(RankAssembly(), ReplicaCheck())
        return self._runs[run]


def _compare(run: _Run, steps: dict[int, Step]) -> Event | None:
    from gradscope.protocol.bodies import unpack_block  # noqa: PLC0415 - loads NumPy
    from gradscope.rules import numbers_of_ranks  # noqa: PLC0415 - as above

    newest = max(steps)
    try:
        rows = {
            rank: (run.names[rank, step.manifest_revision], unpack_block(step))
            for rank, step in steps.items()
        }
        run.numbers = steps[newest].step, numbers_of_ranks(rows)
        found = run.check.check(steps[newest].step, rows)
    except (GradscopeError, KeyError, IndexError, ValueError):
        return None  # a faulty agent, or columns of another version
    if found is None:
        return None
    return Event(
        run=steps[newest].run,
        rank=min(steps),
        step=steps[newest].step,
        time_s=time.time(),
        level="info" if found.severity == "hint" else found.severity,
        code=f"finding.{found.code}",
        text=found.message,
        finding=found,
    )
