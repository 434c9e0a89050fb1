"""Finds work that backward does for gradients that are not needed."""

from collections.abc import Iterator
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.instrument import FunctionCall
from gradscope.doctor.subject.run import run_subject
from gradscope.findings import Finding, finding

__all__ = ["find_wasted_work"]


_LARGE_SHARE: Final = 0.1


def find_wasted_work(exam: Examination) -> Iterator[Finding]:
    """Disable one input's gradient at a time, and find operations of backward that only this gradient needs."""
    if exam.skip_reason:
        return
    wasted: dict[str, float] = {}
    counts: dict[str, tuple[int, int]] = {}
    calls = list(exam.first_run.calls)
    needed = [leaf.is_needed for leaf in exam.subject.leaves]
    if sum(needed) > 1:
        for i in (i for i, n in enumerate(needed) if n):
            one_off = [n and j != i for j, n in enumerate(needed)]
            calls += run_subject(exam.subject, needed=one_off, is_instrumented=True).calls
    for call in calls:
        for position in _not_needed(call):
            share, operations = call.operations.only_for(position)
            name = f"argument {position} of {call.function.__name__}"
            if share > wasted.get(name, 0.0):
                wasted[name], counts[name] = share, (operations, call.operations.count)
    if not wasted:
        return
    worst = max(wasted.values())
    yield finding(
        "ignores-needs-input-grad",
        f"backward computes gradients that are not needed: up to {worst:.0%} of its work",
        where=exam.location,
        severity="warning" if worst > _LARGE_SHARE else "hint",
        evidence={
            name: f"{counts[name][0]} of {counts[name][1]} operations, {share:.0%} of the work"
            for name, share in wasted.items()
        },
    )


def _not_needed(call: FunctionCall) -> list[int]:
    if call.returned is None:
        return []
    return [
        i
        for i, g in enumerate(call.returned)
        if g is not None and i < len(call.needs) and not call.needs[i]
    ]
