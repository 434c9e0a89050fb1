"""`Origin`: where a NaN or an infinity arises, and its description."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gradscope.agent.flight_recorder.source import SourceLine

__all__ = ["Origin", "Pass"]

Pass: TypeAlias = Literal["input", "forward", "loss", "backward", "optimizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the first element that is not finite arises.

    layer: the innermost module that runs then; empty for the model itself; None if not known.
    operation: `aten.log`, or the name of a graph node. count, total: elements of its result.
    detail: what is wrong with its operands. is_line_found: the line was found in the text of the script, not seen.
    """

    place: Pass
    what: Literal["NaN", "Inf"]
    layer: str | None = None
    operation: str = ""
    line: SourceLine | None = None
    is_line_found: bool = False
    count: int = 0
    total: int = 0
    detail: str = ""

    @property
    def operation_words(self) -> str:
        """The operation, its line and its operands: "`aten.log` at model.py:42 (0 in 3 of 512 elements)"."""
        if not self.operation:
            return ""
        at = f" at {self.line}" if self.line is not None else ""
        notes = [self.detail] if self.detail else []
        if self.total:
            notes.append(f"{self.count:,} of {self.total:,} elements")
        return f"`{self.operation}`{at}" + (f" ({', '.join(notes)})" if notes else "")

    def evidence(self) -> Mapping[str, float | str]:
        """Return the parts, by name, for programs."""
        found: dict[str, float | str] = {"pass": self.place, "value": self.what}
        if self.operation:
            found["operation"] = self.operation
        if self.line is not None:
            found |= {"file": self.line.file, "line": self.line.number, "source": self.line.text}
        if self.total:
            found |= {"nonfinite_elements": self.count, "elements": self.total}
        if self.detail:
            found["detail"] = self.detail
        return found
