"""Every code of a finding: its usual severity, and which other codes it explains.

The order of the table is the order of causes: what stands higher is nearer to the root. Where one
finding explains another, the other becomes its evidence, and the cause takes the graver severity.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["CODES", "SEVERITIES", "Code", "rank_of"]

SEVERITIES: Final = ("error", "warning", "hint", "info")
"""From grave to harmless. error: gradients or values are wrong, or it raises; warning: works here,
fails or costs elsewhere; hint: worth knowing, a correct function may have it."""

_WRONG_VALUE: Final = (
    "wrong-gradient",
    "wrong-gradient-sign",
    "wrong-gradient-scale",
    "missing-transpose",
)
_SECOND: Final = ("graph-broken", "wrong-second-gradient", "not-twice-differentiable")
_LAYOUT: Final = ("fails-on-noncontiguous", "fails-on-expanded-gradient", "fails-on-empty")
_SIZE: Final = ("gradient-too-large", "gradient-too-small")


@dataclass(frozen=True, slots=True)
class Code:
    """One code. `explains` names the codes that are mere consequences where this one is found."""

    name: str
    severity: str
    explains: frozenset[str] = frozenset()


def _code(name: str, severity: str, *explains: str) -> Code:
    return Code(name, severity, frozenset(explains))


_TABLE: Final = (
    _code("non-tensor-saved", "error", "forward-raises"),
    _code("saved-tensors-in-forward", "error", "forward-raises", "forward-nonfinite"),
    _code(
        "forward-inplace-input",
        "error",
        *("forward-raises", "backward-raises", "input-returned-as-is", "nondeterministic"),
        *(*_WRONG_VALUE, *_SECOND, *_LAYOUT),
    ),
    _code(
        "grad-output-modified",
        "error",
        *("backward-raises", "nondeterministic", *_WRONG_VALUE, *_SECOND, *_LAYOUT),
    ),
    _code(
        "saved-tensor-modified",
        "error",
        *("backward-raises", "nondeterministic", *_WRONG_VALUE, *_SECOND, *_LAYOUT),
    ),
    _code("forward-raises", "error"),
    _code("forward-nonfinite", "error", "gradient-nonfinite"),
    _code("wrong-gradient-count", "error", "backward-raises"),
    _code(
        "missing-transpose",
        "error",
        *("backward-raises", "gradient-shape-mismatch", *_SECOND, *_LAYOUT),
    ),
    _code("gradient-shape-mismatch", "error", "backward-raises"),
    _code("gradient-device-mismatch", "warning", "backward-raises", *_WRONG_VALUE),
    _code("backward-raises", "error"),
    _code("gradient-nonfinite", "error", *_SIZE),
    _code("broadcast-not-reduced", "error", *_WRONG_VALUE, *_SECOND),
    _code("gradient-dtype-mismatch", "warning", *_WRONG_VALUE, *_SECOND),
    _code("missing-gradient", "error", *_SECOND, *_LAYOUT),
    _code("wrong-gradient-sign", "error", *_SECOND),
    _code("wrong-gradient-scale", "error", *_SECOND),
    _code("wrong-gradient", "error", *_SECOND),
    _code("approximate-poor", "error"),
    _code("uses-data", "warning", "graph-broken"),
    _code("saved-on-ctx", "warning", "graph-broken"),
    _code("graph-broken", "warning"),
    _code("wrong-second-gradient", "error"),
    _code("fails-on-noncontiguous", "error"),
    _code("fails-on-expanded-gradient", "error"),
    _code("nondeterministic", "warning"),
    _code("not-twice-differentiable", "warning"),
    _code("fails-on-empty", "warning"),
    _code("gradient-too-large", "warning"),
    _code("gradient-too-small", "warning"),
    _code("ignores-needs-input-grad", "hint"),
    _code("approximate-noticeable", "hint"),
    _code("gradient-by-design", "hint"),
    _code("input-returned-as-is", "hint"),
    _code("reimplements-builtin", "hint"),
)

CODES: Final = {code.name: code for code in _TABLE}
_RANK: Final = {code.name: rank for rank, code in enumerate(_TABLE)}


def rank_of(name: str, severity: str) -> tuple[int, int]:
    """Return what findings are sorted by: graver first, then nearer to the root."""
    return SEVERITIES.index(severity), _RANK[name]
