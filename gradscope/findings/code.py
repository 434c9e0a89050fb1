"""`Code`: one kind of finding, with what its findings say unless a check says something else."""

from dataclasses import dataclass, field

from gradscope.findings.finding import Place, Severity

__all__ = ["Code"]


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
