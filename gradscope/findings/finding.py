"""`Finding`: one thing that is wrong with a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Confidence", "Finding", "Place", "Severity"]

Severity: TypeAlias = Literal["error", "warning", "hint"]
"""error: training is broken. warning: very likely a fault. hint: legitimate in some programs."""

Place: TypeAlias = Literal["", "input", "forward", "loss", "backward", "optimizer"]
"""The part of a step that the finding is about; empty if there is none."""

Confidence: TypeAlias = Literal["measured", "structural", "inferred"]
"""measured: seen in the numbers. structural: seen in the model, the optimizer or the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a run.

    code: a key of `CODES`. layers: names, the most responsible first; empty for the whole run.
    since_step: when it began, as far as known. found_step: when it was found.
    message: one sentence with the numbers. cause: the likely reason. fix: what to do next.
    evidence: the numbers behind the message, by name; the unit is in the name.
    """

    code: str
    severity: Severity
    message: str
    cause: str
    fix: str
    found_step: int
    since_step: int | None = None
    layers: tuple[str, ...] = ()
    place: Place = ""
    confidence: Confidence = "measured"
    evidence: Mapping[str, float | str] = field(default_factory=dict)
