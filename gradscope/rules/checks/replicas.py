"""`ReplicaCheck`: whether parameters that should be copies are the same on all ranks.

Ranks are compared by the statistics of the same observed step. A row flagged REPLICA repeats one of another rank: the
parameters of DDP, or the replicated ones of a mesh. Shards are not flagged, so they are not compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from gradscope.columns import Block, Flags
from gradscope.findings import Finding, finding

__all__ = ["RankRows", "ReplicaCheck"]

RankRows: TypeAlias = Mapping[int, tuple[Sequence[str], Block]]
"""For each rank the names of its layers and its rows, of one step."""

_APART: Final = 1e-4
"""Relative to the root mean square. Devices of several kinds round differently: half a unit in the last place of
float32 (6e-8) in each of a million steps adds up to 6e-5."""

_STEPS: Final = 2
_ALONE_STEPS: Final = 10
"""Ranks that average their parameters every few steps are the same again within these."""

_NAMED: Final = 3
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The statistics of one row."""

    count: float
    least: float
    greatest: float
    mean: float
    rms: float

    def distance(self, other: "_Numbers") -> float:
        """Return the largest difference relative to the root mean square; 0 for two rows of zeros."""
        size = max(self.rms, other.rms)
        pairs = (
            (self.least, other.least),
            (self.greatest, other.greatest),
            (self.mean, other.mean),
            (self.rms, other.rms),
        )
        return max(abs(a - b) for a, b in pairs) / size if size > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Pair:
    """One layer on two ranks."""

    layer: str
    ranks: tuple[int, int]
    parameters: tuple[_Numbers, _Numbers]
    gradients: tuple[_Numbers, _Numbers] | None

    @property
    def is_apart(self) -> bool:
        first, second = self.parameters
        return first.distance(second) > _APART

    @property
    def has_equal_gradients(self) -> bool:
        if self.gradients is None:
            return False
        first, second = self.gradients
        return first.rms > 0 and first.distance(second) <= _APART


class ReplicaCheck:
    """Compares the ranks of one run. Call `check` with steps in ascending order."""

    def __init__(self) -> None:
        self._shared_since: int | None = None
        self._shared = 0
        self._alone_since: int | None = None
        self._alone = 0
        self._began_equal = False
        self._is_first = True
        self._is_reported = False

    def check(self, step: int, rows: RankRows) -> Finding | None:
        """Compare one step of all ranks. Return the finding once."""
        pairs = _pairs(rows)
        if not pairs or self._is_reported:
            return None
        apart = [pair for pair in pairs if pair.is_apart]
        if self._is_first:
            self._is_first = False
            spread = any(a.least < a.greatest for a, _ in (pair.parameters for pair in pairs))
            self._began_equal = not apart and spread
        shared = [pair for pair in apart if pair.has_equal_gradients]
        self._shared = self._shared + 1 if shared else 0
        self._alone = self._alone + 1 if apart and not shared and self._began_equal else 0
        if self._shared == 1:
            self._shared_since = step
        if self._alone == 1:
            self._alone_since = step
        if self._shared >= _STEPS:
            self._is_reported = True
            return _finding(shared, step, self._shared_since, is_shared=True)
        if self._alone >= _ALONE_STEPS:
            self._is_reported = True
            return _finding(apart, step, self._alone_since, is_shared=False)
        return None


def _finding(pairs: Sequence[_Pair], step: int, since: int | None, *, is_shared: bool) -> Finding:
    pairs = sorted(pairs, key=lambda pair: -pair.parameters[0].distance(pair.parameters[1]))
    layers = tuple(dict.fromkeys(pair.layer for pair in pairs))
    worst = pairs[0]
    (a, b), (one, other) = worst.parameters, worst.ranks
    named = ", ".join(f"`{name}`" if name else "the model" for name in layers[:_NAMED])
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    how = "although they get the same gradient" if is_shared else "and neither are their gradients"
    return finding(
        "replicas-differ",
        f"the parameters of {named}{more} are not the same on all ranks, {how}: those of `{worst.layer}` have the rms "
        f"{a.rms:.6g} and the maximum {a.greatest:.6g} on rank {one}, {b.rms:.6g} and {b.greatest:.6g} on rank {other}",
        cause=None
        if is_shared
        else "All ranks began with the same parameters, and each trains alone: gradients are not averaged, for example "
        "because the loop calls model.module instead of the DDP model, or always uses no_sync(). Some algorithms do so "
        "on purpose between two averages.",
        fix=None
        if is_shared
        else "Call the DDP model itself, or average the gradients before the optimizer steps.",
        step=step,
        since=since,
        layers=layers[:_SHOWN],
        severity=None if is_shared else "hint",
        confidence="measured",
        evidence={
            "difference": a.distance(b),
            "rank": float(other),
            "of_rank": float(one),
            "layers": float(len(layers)),
        },
    )


def _pairs(rows: RankRows) -> list[_Pair]:
    """Return each copied layer with the rank that it copies, if exactly one rank holds the original."""
    parameters = {rank: _rows(names, block, "param") for rank, (names, block) in rows.items()}
    gradients = {rank: _rows(names, block, "param_grad") for rank, (names, block) in rows.items()}
    originals: dict[str, list[int]] = {}
    for rank, of_rank in parameters.items():
        for layer, (_, is_copy) in of_rank.items():
            if not is_copy:
                originals.setdefault(layer, []).append(rank)
    pairs = []
    for rank, of_rank in parameters.items():
        for layer, (numbers, is_copy) in of_rank.items():
            owners = originals.get(layer, [])
            if not is_copy or len(owners) != 1:
                continue
            original = parameters[owners[0]][layer][0]
            first, second = gradients[owners[0]].get(layer), gradients[rank].get(layer)
            if original.count == numbers.count:
                both = None if first is None or second is None else (first[0], second[0])
                pairs.append(_Pair(layer, (owners[0], rank), (original, numbers), both))
    return pairs


def _rows(names: Sequence[str], block: Block, kind: str) -> dict[str, tuple[_Numbers, bool]]:
    """Return the finite rows of a kind by layer, each with whether it is a copy of a row of another rank."""
    found: dict[str, tuple[_Numbers, bool]] = {}
    if kind not in block.kinds:
        return found
    number, values = block.kinds.index(kind), block.values
    for i in (block.kind == number).nonzero()[0].tolist():
        count = float(values["count"][i])
        bad = float(values["nan"][i]) + float(values["posinf"][i]) + float(values["neginf"][i])
        if count > 0 and not bad and not int(block.flags[i]) & Flags.NOT_MEASURED:
            numbers = _Numbers(
                count,
                float(values["min"][i]),
                float(values["max"][i]),
                float(values["sum"][i]) / count,
                math.sqrt(float(values["sumsq"][i]) / count),
            )
            found[names[int(block.layer[i])]] = numbers, bool(int(block.flags[i]) & Flags.REPLICA)
    return found
