"""`Selection`: which steps, layers, kinds and statistics are exported; `rows` reads them, a few at a time."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import BASIC_KINDS, COLUMNS, Block, Flags, derive_from
from gradscope.columns.derived import DERIVATIONS
from gradscope.errors import UsageError
from gradscope.history import RecordedStep, layer_names, recorded_steps
from gradscope.names import match_names
from gradscope.recording import Recording

__all__ = ["DEFAULT_STATS", "STATS", "Rows", "Selection", "is_whole_number", "select", "step_range"]

STATS: Final = (*DERIVATIONS, *(column.name for column in COLUMNS))
"""The statistics of a row: what is derived, and the columns that are recorded."""

DEFAULT_STATS: Final = ("norm", "rms", "mean", "std", "absmax", "min", "max", "count", "nonfinite")

_WHOLE: Final = {column.name for column in COLUMNS if column.is_count} | {"finite", "nonfinite"}
_OF_FINITE: Final = {"min", "max"}
_FLAGS: Final = (Flags.SAMPLED, Flags.SCALED, Flags.NOT_MEASURED, Flags.DIFFERS)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is exported. first and last are steps, both included; None: from the beginning, to the end."""

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    stats: tuple[str, ...]
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The chosen rows of one step. Each array of `values` has a number for each row, NaN where it was not measured."""

    step: int
    time_s: float
    layers: list[str]
    kinds: list[str]
    flags: list[str]
    values: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.layers)


def is_whole_number(stat: str) -> bool:
    """Return whether a statistic is a count."""
    return stat in _WHOLE


def step_range(text: str) -> tuple[int | None, int | None]:
    """Return the first and last step of "A:B", "A:" or ":B". Raises UsageError for anything else."""
    first, colon, last = text.partition(":")
    try:
        found = int(first) if first else None, int(last) if last else None
    except ValueError:
        found, colon = (None, None), ""
    if not colon or any(step is not None and step < 0 for step in found):
        raise UsageError(
            f"expected --steps as A:B, the first and last step, such as 100:200 or 100:; got {text!r}"
        )
    return found


def select(
    recording: Recording,
    *,
    layers: Sequence[str] = (),
    kinds: Sequence[str] = (),
    stats: Sequence[str] = (),
    steps: str = "",
) -> Selection:
    """Return a selection from a recording. layers: names or patterns. kinds: such as "grad", or "param_grad.weight".

    Raises UsageError for an unknown kind or statistic and for steps outside of the recording, and
    UnknownLayerError if a pattern matches no layer.
    """
    names = layer_names(recording)
    for stat in stats:
        if stat not in STATS:
            raise UsageError(f"expected --stats to be among {', '.join(STATS)}; got {stat!r}")
    for kind in kinds:
        if kind.partition(".")[0] not in BASIC_KINDS and not any(c in kind for c in "*?["):
            raise UsageError(f"expected --kinds to be among {', '.join(BASIC_KINDS)}; got {kind!r}")
    first, last = step_range(steps) if steps else (None, None)
    info = recording.info
    if steps and info.first_step is not None and info.last_step is not None:
        low, high = 0 if first is None else first, info.last_step if last is None else last
        if low > high or low > info.last_step or high < info.first_step:
            raise UsageError(
                f"expected --steps within {info.first_step}:{info.last_step}, the steps of the recording; got {steps!r}"
            )
    chosen = tuple(match_names(layers, names)) if layers else names
    return Selection(chosen, tuple(kinds), tuple(stats or DEFAULT_STATS), first, last)


def rows(recording: Recording, selection: Selection) -> Iterator[Rows]:
    """Yield the rows of each observed step; a step without a chosen row is left out."""
    wanted = frozenset(selection.layers)
    for step in recorded_steps(recording, selection.first, selection.last):
        found = _rows(step, wanted, selection)
        if len(found):
            yield found


def _rows(step: RecordedStep, wanted: frozenset[str], selection: Selection) -> Rows:
    block = step.block
    has_layer = np.array([name in wanted for name in step.layers] or [False])
    has_kind = np.array([_is_chosen(kind, selection.kinds) for kind in block.kinds] or [False])
    chosen = block.taken(has_layer[block.layer] & has_kind[block.kind])
    return Rows(
        step.step,
        step.time_s,
        [step.layers[place] for place in chosen.layer],
        [chosen.kinds[place] for place in chosen.kind],
        [_flags_in_words(int(flags)) for flags in chosen.flags],
        {stat: _numbers(chosen, stat) for stat in selection.stats},
    )


def _is_chosen(kind: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(
        kind == each or kind.startswith(f"{each}.") or fnmatch.fnmatchcase(kind, each)
        for each in patterns
    )


def _numbers(block: Block, stat: str) -> NDArray[np.float64]:
    """Return a statistic of each row; NaN if it was not measured, and if there is no finite element to have it."""
    numbers = derive_from(stat, block.column) if stat in DERIVATIONS else block.column(stat)
    unknown = (block.flags & Flags.NOT_MEASURED).astype(bool)
    if stat in _OF_FINITE or stat == "norm":
        unknown |= derive_from("finite", block.column) == 0
    return np.where(unknown, np.nan, numbers)


def _flags_in_words(flags: int) -> str:
    return "|".join((each.name or "").lower() for each in _FLAGS if flags & each)
