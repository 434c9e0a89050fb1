"""Compares the rows of one step of two runs, in the order in which their tensors were computed.

With digests, two tensors are equal if their digests are. Otherwise they are compared by their statistics, up to a
tolerance: a relative difference is estimated as the greatest of the differences of the sum, divided by √n times the
rms, of the norm, divided by the norm, and of the least and the greatest element, divided by the greatest magnitude. If
n elements change independently by the fraction ε, this is about ε.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import CORE_COLUMNS, INPUT_KIND, Block, Flags
from gradscope.comparison.sides import SideStep

__all__ = ["PASSES", "Aligner", "Alignment", "Pass", "Row", "relative_differences"]

Pass: TypeAlias = Literal["parameters", "input", "forward", "backward", "gradients", "optimizer"]
PASSES: Final[tuple[Pass, ...]] = (
    "parameters", "input", "forward", "backward", "gradients", "optimizer",
)  # fmt: skip
"""The passes of a step in causal order. `gradients` are those of parameters."""

_PASS_OF_KIND: Final[Mapping[str, Pass]] = {
    "param": "parameters",
    INPUT_KIND: "input",
    "out": "forward",
    "grad": "backward",
    "param_grad_before_clip": "gradients",
    "param_grad": "gradients",
    "update": "optimizer",
}
_REVERSED: Final = ("backward", "gradients")
_OF_REPLICAS: Final = ("parameters", "gradients", "optimizer")
_WHOLE_KINDS: Final = ("param", "param_grad", "param_grad_before_clip", "update")
"""Rows of all parameters of a layer; there is one for each parameter too."""

_REDUCTION: Final = 2.0**-50
"""Bound of the relative difference of two reductions of the same n elements in float64, divided by √n."""

_RESIDUE: Final = 2.0**-20
"""Eight roundings of float32: what remains if numbers cancel."""

_Places: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Row:
    """One row that both steps have. `layer` is its name in A."""

    stage: Pass
    layer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Alignment:
    """The rows that two steps have in common, in causal order, as indices into the blocks."""

    rows: tuple[Row, ...]
    in_a: _Places
    in_b: _Places
    passes: tuple[Pass, ...]

    def different(
        self, a: Block, b: Block, *, rtol: float | None, by_digest: bool
    ) -> tuple[NDArray[np.bool_], bool]:
        """Return which rows differ, and whether digests were compared.

        rtol: the tolerance of statistics; None: the error of their reduction.
        """
        one, two = a.taken(self.in_a), b.taken(self.in_b)
        missing = ((one.flags | two.flags) & Flags.NOT_MEASURED).astype(bool)
        sizes = relative_differences(one, two)
        if rtol is None:
            found = sizes > _REDUCTION * np.sqrt(np.maximum(one.column("count"), 1.0))
        else:
            found = (sizes > rtol) & ~self._are_residues(one, two)
        has_digests = by_digest and one.digest is not None and two.digest is not None
        if one.digest is not None and two.digest is not None and by_digest:
            known = (one.digest != 0) & (two.digest != 0)
            found = np.where(known, one.digest != two.digest, found)
        return found & ~missing, has_digests

    def _are_residues(self, a: Block, b: Block) -> NDArray[np.bool_]:
        """Return which rows are so much smaller than others of their pass that they may be nothing but rounding.

        The gradient of a bias before a BatchNorm, for example, is zero but for rounding.
        """
        greatest = np.nan_to_num(np.fmax(a.derive("absmax"), b.derive("absmax")))
        passes = np.array([PASSES.index(each) for each in self.passes], np.intp)
        of_pass = np.zeros(len(PASSES))
        np.maximum.at(of_pass, passes, greatest)
        return greatest <= _RESIDUE * of_pass[passes]

    def size_of_pass(self, stage: Pass, a: Block, b: Block) -> float:
        """Return the estimated relative difference of all tensors of a pass as one vector."""
        rows = np.array([each == stage for each in self.passes], bool)
        one, two = a.taken(self.in_a[rows]), b.taken(self.in_b[rows])
        norms = np.nan_to_num(np.fmax(one.derive("norm"), two.derive("norm")))
        whole = float(np.linalg.norm(norms))
        sizes = np.where(norms > 0, relative_differences(one, two), 0.0)
        return float(np.linalg.norm(sizes * norms)) / whole if whole else 0.0

    def sizes_of_differences(self, a: Block, b: Block) -> NDArray[np.float64]:
        """Return the estimated relative difference of each row."""
        return relative_differences(a.taken(self.in_a), b.taken(self.in_b))


class Aligner:
    """Finds the rows that correspond. The result is kept, because most steps have the same rows."""

    def __init__(self, of_b: Mapping[str, str], *, is_replica: bool) -> None:
        self._of_b = of_b
        self._is_replica = is_replica
        self._key: tuple[object, ...] = ()
        self._kept: Alignment | None = None

    def align(self, a: SideStep, b: SideStep) -> Alignment:
        """Return the common rows of two steps."""
        key = tuple(
            each
            for step in (a, b)
            for each in (
                step.names,
                step.block.kinds,
                step.block.layer.tobytes(),
                step.block.kind.tobytes(),
            )
        )
        if self._kept is None or key != self._key:
            self._key, self._kept = key, self._make(a, b)
        return self._kept

    def _make(self, a: SideStep, b: SideStep) -> Alignment:
        places = {
            (self._of_b[layer], kind): i
            for i, (layer, kind) in enumerate(_keys(b))
            if layer in self._of_b
        }
        found: list[tuple[int, int, int, int, Row]] = []
        for i, (layer, kind) in enumerate(_keys(a)):
            stage = _PASS_OF_KIND.get(kind.partition(".")[0])
            at = places.get((layer, kind))
            if stage is None or at is None or kind in _WHOLE_KINDS:
                continue
            if self._is_replica and stage not in _OF_REPLICAS:
                continue
            is_last = int(not kind.startswith("param_grad_before_clip"))
            order = -i if stage in _REVERSED else i
            found.append((PASSES.index(stage), is_last, order, i, Row(stage, layer, kind)))
        found.sort(key=lambda each: each[:3])
        rows = tuple(each[4] for each in found)
        return Alignment(
            rows,
            np.array([each[3] for each in found], np.intp),
            np.array([places[row.layer, row.kind] for row in rows], np.intp),
            tuple(row.stage for row in rows),
        )


def _keys(step: SideStep) -> Sequence[tuple[str, str]]:
    block = step.block
    return [
        (step.names[layer], block.kinds[kind])
        for layer, kind in zip(block.layer.tolist(), block.kind.tolist(), strict=True)
    ]


def relative_differences(a: Block, b: Block) -> NDArray[np.float64]:
    """Return the estimated relative difference of each row of two blocks; infinite if other counts differ."""
    if not (CORE_COLUMNS.issubset(a.values) and CORE_COLUMNS.issubset(b.values)):
        return np.zeros(len(a))
    finite = np.maximum(a.derive("finite"), 1.0)
    norm = np.maximum(np.sqrt(a.column("sumsq")), np.sqrt(b.column("sumsq")))
    greatest = np.fmax(a.derive("absmax"), b.derive("absmax"))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        parts = [
            np.abs(a.column("sum") - b.column("sum")) / norm,  # √n times the rms is the norm
            np.abs(np.sqrt(a.column("sumsq")) - np.sqrt(b.column("sumsq"))) / norm,
            np.abs(a.column("min") - b.column("min")) / greatest,
            np.abs(a.column("max") - b.column("max")) / greatest,
        ]
    found = np.max(np.nan_to_num(parts, nan=0.0, posinf=np.inf), axis=0)
    for name in ("count", "nan", "posinf", "neginf"):
        found = np.where(a.column(name) != b.column(name), np.inf, found)
    return np.where(finite > 0, found, 0.0)
