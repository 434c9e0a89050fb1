"""`compare_runs`: the first step, pass and layer where two runs differ, and how the difference grows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gradscope.comparison.causes import Evidence, Suspect, find_suspects
from gradscope.comparison.context import Note, compare_context
from gradscope.comparison.layers import Correspondence, match_layers
from gradscope.comparison.rows import Aligner, Alignment, Pass, Row
from gradscope.comparison.sides import Side, SideStep, check_range
from gradscope.errors import RecordingError, UsageError

__all__ = ["Comparison", "Divergence", "Growth", "compare_runs"]

_EPSILONS: Final = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}
_ROUNDINGS: Final = 32
"""Two devices or dtypes: results may differ by this many roundings, as after some matrix products."""

_GROWTH_POINTS: Final = 6


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference. `after_step`: the last compared step before it, in which all rows were equal.

    size: the estimated relative difference; infinite if a count differs. is_rounded: the statistics of this step are
        rounded in a recording, so a smaller difference may have begun before. others: further rows that differ in
        this pass of this step. rows: rows of this pass that were compared.
    """

    step: int
    after_step: int | None
    stage: Pass
    layer: str
    kind: str
    layer_type: str
    size: float
    others: int
    rows: int
    is_rounded: bool


@dataclass(frozen=True, slots=True)
class Growth:
    """The relative difference of all parameters as one vector (or else of all outputs) in a step."""

    step: int
    size: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing two runs. `first` is None if they are equal in all compared steps.

    tolerance: the relative difference up to which rows count as equal; None: digests, or the error of the reduction.
    exact_steps: the number of steps that were compared by digests. rounded_steps: by statistics that are rounded in a
        recording.
    """

    run_a: str
    run_b: str
    steps: int
    first_step: int
    last_step: int
    exact_steps: int
    rounded_steps: int
    tolerance: float | None
    layers: Correspondence
    notes: tuple[Note, ...]
    first: Divergence | None
    suspects: tuple[Suspect, ...]
    growth: tuple[Growth, ...]

    @property
    def is_exact(self) -> bool:
        """Whether all steps were compared by digests."""
        return self.exact_steps == self.steps


def compare_runs(
    a: Side,
    b: Side,
    *,
    rtol: float | None = None,
    first_step: int | None = None,
    last_step: int | None = None,
) -> Comparison:
    """Compare the steps that both sides have recorded, from `first_step` to `last_step`.

    rtol: the relative difference up to which statistics count as equal. None: rows with digests are compared by these,
    others up to the error of the reduction; if devices or dtypes of parameters differ, up to 32 roundings of the
    coarser dtype.

    Raises UsageError if the range is not in the runs, and RecordingError if no layer or no step is in both.
    """
    check_range(first_step, last_step)
    if rtol is not None and not 0 <= rtol < 1:
        raise UsageError(f"rtol must be at least 0 and below 1, got {rtol:g}")
    layers = match_layers(a.layers, b.layers)
    if not set(layers.of_b.values()) - {""} and len(a.layers) > 1:
        raise RecordingError(
            f"the runs {a.info.run!r} and {b.info.run!r} cannot be compared: no layer of one corresponds "
            "to a layer of the other, neither by name nor by type and shape"
        )
    is_replica = a.info.path == b.info.path and a.rank != b.rank
    if rtol is None:
        rtol = _tolerance_of(a, b)
    walk = _Walk(Aligner(layers.of_b, is_replica=is_replica), rtol)
    for one, two in _common_steps(a, b, first_step, last_step):
        walk.add(one, two)
    if walk.steps == 0:
        raise _nothing_common(a, b, first_step, last_step)
    notes = compare_context(a, b, layers)
    suspects: tuple[Suspect, ...] = ()
    if walk.first is not None:
        suspects = find_suspects(_evidence(walk, a, b, notes))
    return Comparison(
        _named(a), _named(b), walk.steps, walk.begin, walk.end, walk.exact, walk.rounded, rtol, layers,
        notes, walk.first, suspects, tuple(_chosen(walk.growth)),
    )  # fmt: skip


class _Walk:
    """The comparison step by step."""

    def __init__(self, aligner: Aligner, rtol: float | None) -> None:
        self._aligner = aligner
        self._rtol = rtol
        self.steps = self.exact = self.rounded = 0
        self.begin = self.end = 0
        self.first: Divergence | None = None
        self.at: tuple[SideStep, SideStep, Alignment] | None = None
        self.before: tuple[SideStep, SideStep] | None = None
        self.differing: tuple[Row, ...] = ()
        self.growth: list[Growth] = []

    def add(self, a: SideStep, b: SideStep) -> None:
        """Compare the next step. If it is rounded on one side, it is rounded on the other one too."""
        if a.is_rounded or b.is_rounded:
            self.rounded += 1
            a, b = a.rounded(), b.rounded()
        self.begin = a.step if self.steps == 0 else self.begin
        self.steps, self.end = self.steps + 1, a.step
        alignment = self._aligner.align(a, b)
        different, is_exact = alignment.different(
            a.block, b.block, rtol=self._rtol, by_digest=self._rtol is None
        )
        self.exact += is_exact
        if self.first is None and different.any():
            self._part(a, b, alignment, different)
        elif self.first is None:
            self.before = a, b
        if self.first is not None:
            self.growth.append(_growth(a, b, alignment))

    def _part(
        self, a: SideStep, b: SideStep, alignment: Alignment, different: Any
    ) -> None:  # Any: a mask
        place = int(different.argmax())
        row = alignment.rows[place]
        same_pass = np.array([each == row.stage for each in alignment.passes])
        sizes = alignment.sizes_of_differences(a.block, b.block)
        self.at = a, b, alignment
        self.differing = tuple(alignment.rows[i] for i in np.flatnonzero(different & same_pass))
        self.first = Divergence(
            step=a.step,
            after_step=None if self.before is None else self.before[0].step,
            stage=row.stage,
            layer=row.layer,
            kind=row.kind,
            layer_type="",
            size=float(sizes[place]),
            others=len(self.differing) - 1,
            rows=int(same_pass.sum()),
            is_rounded=a.is_rounded,
        )


def _common_steps(
    a: Side, b: Side, first: int | None, last: int | None
) -> Iterator[tuple[SideStep, SideStep]]:
    """Yield the steps that both sides have, in order."""
    ones, twos = a.steps(), b.steps()
    one, two = next(ones, None), next(twos, None)
    while one is not None and two is not None and (last is None or one.step <= last):
        if one.step < two.step:
            one = next(ones, None)
        elif two.step < one.step:
            two = next(twos, None)
        else:
            if first is None or one.step >= first:
                yield one, two
            one, two = next(ones, None), next(twos, None)


def _nothing_common(a: Side, b: Side, first: int | None, last: int | None) -> Exception:
    spans = [
        f"{_named(side)} has {side.info.steps} observed steps"
        + (f" from {side.info.first_step} to {side.info.last_step}" if side.info.steps else "")
        for side in (a, b)
    ]
    if first is not None or last is not None:
        wanted = f"{0 if first is None else first} to {'the end' if last is None else last}"
        return UsageError(f"no step from {wanted} was observed in both runs: {'; '.join(spans)}")
    return RecordingError(
        f"the runs cannot be compared: no step was observed in both ({'; '.join(spans)}); "
        "attach(every=N) observes the same steps in each run"
    )


def _tolerance_of(a: Side, b: Side) -> float | None:
    """Return the tolerance for two devices or dtypes; None if both sides have the same."""
    dtypes = [
        {p.dtype.removeprefix("torch.") for layer in side.layers for p in layer.parameters}
        for side in (a, b)
    ]
    devices = [side.manifest.device.partition(":")[0] for side in (a, b)]
    if dtypes[0] == dtypes[1] and devices[0] == devices[1]:
        return None
    known = [_EPSILONS[dtype] for dtype in dtypes[0] | dtypes[1] if dtype in _EPSILONS]
    return _ROUNDINGS * max(known, default=_EPSILONS["float32"])


def _growth(a: SideStep, b: SideStep, alignment: Alignment) -> Growth:
    for stage in ("parameters", "forward"):
        if stage in alignment.passes:
            return Growth(a.step, alignment.size_of_pass(stage, a.block, b.block))
    return Growth(a.step, 0.0)


def _chosen(growth: list[Growth]) -> list[Growth]:
    """Return the first and the last, and some between, each about as many times later than the one before."""
    if len(growth) <= _GROWTH_POINTS:
        return growth
    places = np.unique(np.geomspace(1, len(growth), _GROWTH_POINTS).round().astype(int) - 1)
    return [growth[i] for i in places]


def _evidence(walk: _Walk, a: Side, b: Side, notes: tuple[Note, ...]) -> Evidence:
    if walk.first is None or walk.at is None:
        raise RuntimeError("there is no difference")
    one, two, alignment = walk.at
    types = {layer.name: layer.type for layer in a.layers}
    epsilon = max(
        (
            _EPSILONS.get(p.dtype.removeprefix("torch."), 0.0)
            for layer in a.layers
            for p in layer.parameters
        ),
        default=_EPSILONS["float32"],
    )
    return Evidence(
        first=walk.first,
        a=one,
        b=two,
        before=walk.before,
        alignment=alignment,
        differing=walk.differing,
        layer_types=types,
        epsilon=epsilon,
        notes=notes,
        side_a=a,
        side_b=b,
    )


def _named(side: Side) -> str:
    return f"{side.info.run}:rank{side.rank}" if side.rank else side.info.run
