"""`Finding`: one thing that is wrong with a run, or with a Function that the doctor examined. `Code`: its kind."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from gradscope.findings.plain_json import plain_value

__all__ = ["Code", "Confidence", "Finding", "Place", "Severity"]

Severity: TypeAlias = Literal["error", "warning", "hint"]
"""error: training is broken. warning: very likely a fault. hint: legitimate in some programs."""

Place: TypeAlias = Literal["", "input", "forward", "loss", "backward", "optimizer"]
"""The part of a step that the finding is about; empty if there is none."""

Confidence: TypeAlias = Literal["measured", "structural", "inferred"]
"""measured: seen in the numbers. structural: seen in the model, the optimizer, the graph or the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a run or a Function.

    code: a key of `CODES` or `DOCTOR_CODES`.
    layers: names, the most responsible first; empty for the whole run, and for a Function.
    since_step: when it began, as far as known. found_step: when it was found; None if no steps were run.
    where: "file:line"; empty if unknown.
    message: one sentence with the numbers. cause: the likely reason. fix: what to do next.
    evidence: the numbers behind the message, by name; the unit is in the name.
    action: of the rule that found it: "pause", "skip_step", "clip", ...; empty: it only reports.
    """

    code: str
    severity: Severity
    message: str
    cause: str
    fix: str
    found_step: int | None = None
    since_step: int | None = None
    layers: tuple[str, ...] = ()
    where: str = ""
    place: Place = ""
    confidence: Confidence = "measured"
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    action: str = ""

    def as_json(self) -> dict[str, Any]:  # Any: what JSON takes
        """Return the fields for JSON. JSON has no NaN and no infinity, so these become strings."""
        return {**asdict(self), "evidence": plain_value(dict(self.evidence))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Finding":  # Any: what JSON may hold
        """Return the finding from the result of `as_json`. Unknown keys are ignored."""
        values = {each.name: data[each.name] for each in fields(cls)}
        return cls(**{**values, "layers": tuple(data["layers"])})


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding.

    meaning: what is the case, as a clause. cause and fix: as in `Finding`.
    explains: the codes of findings that are consequences of this one. With its own name, one finding of this code
        explains the others.
    """

    name: str
    place: Place
    severity: Severity
    meaning: str
    cause: str
    fix: str
    explains: tuple[str, ...] = field(default=(), kw_only=True)
