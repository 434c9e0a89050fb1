"""What an intervention changed: marks at the step of effect, and medians before and after it."""
# ruff: noqa: RUF001, RUF002 - the signs are meant

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradscope.findings import Finding
from gradscope_tui.store.effects import Effect
from gradscope_tui.view.cell import Role
from gradscope_tui.view.numbers import plain_number, short_number

__all__ = ["before_after", "marks_of"]

_SPAN = 20
"""The medians are over at most this many observed steps: a single step would be noise."""

_LEAST = 3


def marks_of(effects: Iterable[Effect], findings: Iterable[Finding]) -> dict[int, tuple[str, Role]]:
    """Return the sign at each step.

    △ where a finding was found, ▲ where it began, ◇ where an intervention ended, ◆ where one took effect.
    """
    findings = list(findings)
    marks: dict[int, tuple[str, Role]] = {
        each.found_step: ("△", "warning") for each in findings if each.found_step is not None
    }
    for finding in findings:
        began = finding.found_step if finding.since_step is None else finding.since_step
        if began is not None:
            marks[began] = "▲", "warning"
    effects = list(effects)
    marks |= {effect.step: ("◇", "pending") for effect in effects if effect.is_end}
    return marks | {effect.step: ("◆", "active") for effect in effects if not effect.is_end}


def before_after(
    step: int, series: Sequence[tuple[str, NDArray[np.int64], NDArray[np.floating]]]
) -> str:
    """Return the medians of each named series before and since a step, such as `loss 3.10 → 2.90 (×0.94)`.

    A series with fewer than three finite numbers on one side is left out.
    """
    parts = []
    for name, steps, values in series:
        finite = np.isfinite(values)
        before, after = (
            values[finite & (steps < step)][-_SPAN:],
            values[finite & (steps >= step)][-_SPAN:],
        )
        if min(len(before), len(after)) >= _LEAST:
            first, second = float(np.median(before)), float(np.median(after))
            ratio = f" (×{short_number(second / first)})" if first > 0 and second >= 0 else ""
            parts.append(f"{name} {plain_number(first)} → {plain_number(second)}{ratio}")
    return ", ".join(parts)
