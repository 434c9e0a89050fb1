"""Memory that ran out: where that was, what held most of it, and what would help.

It is made from what was measured, in this step where it was a measured one. Nothing is tried out.
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
    """Where an exception came from. `layer` is None where it is not known."""

    what: Pass
    layer: str | None

    def __str__(self) -> str:
        where = _WHERE[self.what]
        if self.what in ("optimizer", "outside"):
            return where
        known = self.layer or "the model itself"
        return f"{where} {'a layer that is not known' if self.layer is None else known}"


@dataclass(frozen=True, slots=True)
class CheckpointSaving:
    """What checkpointing some layers would do. `back_bytes` come back while one runs backward."""

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
            f"{bytes_in_words(self.saves_bytes)} ({back} come back while one of them runs backward)"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: a device's, the host's, or a limit."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def oom_location(
    frames: Sequence[FrameType], name_of: Callable[[nn.Module], str | None], backward_layer: str | None
) -> OomLocation:
    """Return where an exception came from, by the frames that it passed, the innermost first.

    backward_layer: the layer whose backward was running, where it was measured.
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
    """Return the report, in lines: where, the ten largest holders, what would help.

    table: what is known of the memory; None where no step was measured. types: the class of each layer.
    inputs: the bytes that each layer with others in it was given.
    """
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    lines = [f"out of memory {place}: {said}"]
    if table is None:
        return "\n".join([*lines, "nothing is known of who held it: no step had been measured"])
    lines.append(f"the largest holders, as of step {table.step}:")
    lines += [
        f"{bytes_in_words(size):>10}  {kind} of {name or 'the model itself'}"
        for size, kind, name in largest_holders(table)
    ]
    found = list(checkpoint_savings(table, types, inputs))
    lines += [f"what would help: {each}" for each in found[:_SAVINGS_LIMIT]]
    lines += [] if found else ["checkpointing would not help: no block keeps more than it is given"]
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
    """Yield what checkpointing would save, most first: layers of a class side by side, or one block."""
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
    """Return the tensors with a graph that are in the local variables of frames."""
    return [
        value
        for frame in frames
        for value in frame.f_locals.values()
        if isinstance(value, torch.Tensor) and value.grad_fn is not None
    ]
