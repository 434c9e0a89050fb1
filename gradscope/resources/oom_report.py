"""The report of an out-of-memory error: where it was raised, the largest holders, and possible savings.

It uses the memory table of the current step if that step is measured, or else of the last measured step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.columns import MemoryTable, bytes_in_words

__all__ = [
    "CheckpointSaving",
    "OomLocation",
    "Pass",
    "checkpoint_savings",
    "is_out_of_memory",
    "largest_holders",
    "local_tensors",
    "oom_location",
    "oom_report",
]

Pass: TypeAlias = Literal["forward", "backward", "optimizer", "outside"]
_HOLDERS: Final = 10
_SAVINGS_LIMIT: Final = 3
_KINDS: Final = {
    "saved_bytes": "activations",
    "param_bytes": "parameters",
    "grad_bytes": "gradients",
    "optimizer_bytes": "optimizer state",
    "buffer_bytes": "buffers",
}
_WHERE: Final = {
    "forward": "in the forward of",
    "backward": "in the backward of",
    "optimizer": "while the optimizer stepped",
    "outside": "outside of the model",
}


@dataclass(frozen=True, slots=True)
class OomLocation:
    """Where an exception was raised. `layer` is None if unknown."""

    what: Pass
    layer: str | None

    def __str__(self) -> str:
        where = _WHERE[self.what]
        if self.what in ("optimizer", "outside"):
            return where
        known = self.layer or "the model itself"
        return f"{where} {'an unknown layer' if self.layer is None else known}"


@dataclass(frozen=True, slots=True)
class CheckpointSaving:
    """The effect of checkpointing some layers.

    saves_bytes: the memory that is saved until a layer's own backward.
    back_bytes: the memory that is used again while one of the layers runs backward.
    """

    layers: tuple[str, ...]
    type: str
    saves_bytes: int
    back_bytes: int

    def __str__(self) -> str:
        first, last = self.layers[0], self.layers[-1]
        if len(self.layers) == 1:
            saved = bytes_in_words(self.saves_bytes)
            return f"checkpointing {first} ({self.type}) would save {saved} until its own backward"
        back = bytes_in_words(self.back_bytes)
        return (
            f"checkpointing each of the {len(self.layers)} {self.type} {first} … {last} would save "
            f"{bytes_in_words(self.saves_bytes)} ({back} are used again while one of them runs backward)"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception is an out-of-memory error: of a device, of the host, or by a configured limit."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def oom_location(
    frames: Sequence[FrameType], name_of: Callable[[nn.Module], str | None], backward_layer: str | None
) -> OomLocation:
    """Return where an exception was raised.

    frames: the frames of its traceback, innermost first.
    backward_layer: the layer whose backward was running, if known.
    """
    layer = next((name for frame in frames if (name := _module_name(frame, name_of)) is not None), None)
    if any(frame.f_code.co_name == "_engine_run_backward" for frame in frames):
        return OomLocation("backward", layer if backward_layer is None else backward_layer)
    if layer is not None:
        return OomLocation("forward", layer)
    if any(isinstance(frame.f_locals.get("self"), Optimizer) for frame in frames):
        return OomLocation("optimizer", None)
    return OomLocation("outside", None)


def _module_name(frame: FrameType, name_of: Callable[[nn.Module], str | None]) -> str | None:
    holder = frame.f_locals.get("self")
    return name_of(holder) if isinstance(holder, nn.Module) else None


def oom_report(
    error: BaseException,
    place: OomLocation,
    table: MemoryTable | None,
    types: Mapping[str, str],
    inputs: Mapping[str, int],
) -> str:
    """Return the report as lines of text: the place, the ten largest holders, and possible savings.

    table: the memory of the layers; None if no step was measured.
    types: the class name of each layer.
    inputs: the size in bytes of the inputs of each layer that contains layers.
    """
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    lines = [f"out of memory {place}: {message}"]
    if table is None:
        return "\n".join([*lines, "the holders are not known: no step had been measured"])
    lines.append(f"the largest holders, as of step {table.step}:")
    lines += [
        f"{bytes_in_words(size):>10}  {kind} of {name or 'the model itself'}"
        for size, kind, name in largest_holders(table)
    ]
    found = list(checkpoint_savings(table, types, inputs))
    lines += [f"what would help: {each}" for each in found[:_SAVINGS_LIMIT]]
    lines += [] if found else ["checkpointing would not help: no block saves more than its inputs"]
    return "\n".join(lines)


def largest_holders(table: MemoryTable) -> list[tuple[int, str, str]]:
    """Return (bytes, kind, layer) of the ten largest holders, the largest first."""
    found = [
        (size, kind, name)
        for name, row in table.items()
        for attribute, kind in _KINDS.items()
        if (size := getattr(row, attribute))
    ]
    return sorted(found, key=lambda each: -each[0])[:_HOLDERS]


def checkpoint_savings(
    table: MemoryTable, types: Mapping[str, str], inputs: Mapping[str, int]
) -> Iterator[CheckpointSaving]:
    """Yield possible savings, largest first: for one block, or for sibling layers of one class."""
    families: dict[tuple[str, str], list[str]] = {}
    for name in table:
        if name and name in inputs:
            families.setdefault((name.rpartition(".")[0], types[name]), []).append(name)
    found = []
    for (_, kind), names in families.items():
        kept = {name: (table[name].total.saved_bytes or 0) for name in names}
        saves = sum(max(0, kept[name] - inputs[name]) for name in names)
        back = max(kept.values()) if len(names) > 1 else 0
        if saves - back > 0:
            found.append(CheckpointSaving(tuple(names), kind, saves - back if back else saves, back))
    yield from sorted(found, key=lambda each: -each.saves_bytes)


def local_tensors(frames: Sequence[FrameType]) -> list[torch.Tensor]:
    """Return the tensors with a graph among the local variables of frames."""
    return [
        value
        for frame in frames
        for value in frame.f_locals.values()
        if isinstance(value, torch.Tensor) and value.grad_fn is not None
    ]
