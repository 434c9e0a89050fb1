"""Correction of gradients for the loss scale (AMP): they are divided by the scale, or flagged as scaled.

A GradScaler multiplies the loss, so every gradient in the backward pass is multiplied too. The scaler
divides the parameters' gradients before the optimizer steps, unless a fused optimizer divides them
itself. If the scaler finds an infinity, it skips the step; most optimizers are then not called at all.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

from gradscope.columns import COLUMNS, Block, Flags, basic_kind

__all__ = ["LossScale", "LossScaleCorrection"]

_SCALED_KINDS = ("grad",)
_SCALED_IN_OPTIMIZER = ("grad", "param_grad")
_BEFORE_CLIP = "param_grad_before_clip"


class LossScale:
    """The loss scale in the step in progress. Without a scaler: whether gradients may be scaled."""

    def __init__(self, scaler: GradScaler | None) -> None:
        self._scaler = scaler
        self._iteration: object = None
        self._is_scaled_in_optimizer = False
        self._is_scaled_at_clipping = False
        self._is_suspect = False

    def begin(self) -> None:
        """Begin a step."""
        self._iteration = None
        self._is_scaled_in_optimizer = False
        self._is_scaled_at_clipping = False
        self._is_suspect = False

    @property
    def has_scaler(self) -> bool:
        """Whether there is a scaler. An iteration that the scaler skips counts as part of a step."""
        return self._scaler is not None

    def now(self) -> torch.Tensor | None:
        """Return the current loss scale in the backward pass; None if there is none or it is unknown."""
        if self._scaler is None or not self._scaler.is_enabled():
            return None
        scale: torch.Tensor | None = self._scaler._scale  # noqa: SLF001 - get_scale() would wait for the device
        return scale

    def note_forward(self) -> bool:
        """Record a forward pass. Return whether the scaler has skipped an iteration since the step began.

        Each `update()` of the scaler ends an iteration and creates a new table of states. If the table
        changes between two forward passes of a step, the first iteration ended without an optimizer
        step.
        """
        if self._scaler is None:
            if not self._is_suspect and torch._C._is_any_autocast_enabled():  # noqa: SLF001 - no public name, and fast
                self._is_suspect = _is_half_autocast()
            return False
        if not self._scaler.is_enabled():
            return False
        iteration = self._scaler._per_optimizer_states  # noqa: SLF001 - the only trace that update() leaves
        was_skipped = self._iteration is not None and iteration is not self._iteration
        self._iteration = iteration
        return was_skipped

    def note_clipping(self) -> None:
        """Record whether gradients are still scaled when the script clips them."""
        if self._scaler is not None and self._scaler.is_enabled():
            states = self._scaler._per_optimizer_states.values()  # noqa: SLF001 - no public name
            self._is_scaled_at_clipping = all(s["stage"] is OptState.READY for s in states)

    def note_optimizer(self, optimizer: Optimizer) -> None:
        """Record whether the parameters' gradients are still scaled when the optimizer receives them."""
        self._is_scaled_in_optimizer = getattr(optimizer, "grad_scale", None) is not None

    def correction(self) -> "LossScaleCorrection":
        """Return the correction for the block of this step."""
        kinds = _SCALED_IN_OPTIMIZER if self._is_scaled_in_optimizer else _SCALED_KINDS
        if self._is_scaled_at_clipping:
            kinds = (*kinds, _BEFORE_CLIP)
        if self._scaler is None:
            return LossScaleCorrection(kinds if self._is_suspect else ())
        scale = self.now()
        if scale is None:
            return LossScaleCorrection()
        if scale.device.type == "cuda":
            pinned = torch.empty((), dtype=scale.dtype, pin_memory=True)
            return LossScaleCorrection(kinds, pinned.copy_(scale.reshape(()), non_blocking=True))
        return LossScaleCorrection(kinds, scale.clone())


@dataclass(frozen=True, slots=True)
class LossScaleCorrection:
    """How to remove the loss scale from the rows of one step.

    kinds: the kinds of rows whose gradients are multiplied by the scale; empty: nothing to correct.
    scale: the loss scale, a tensor with one element on the host. None: the scale is unknown, and the
        rows are flagged as scaled. On CUDA the value is complete when the step's readout is complete.
    """

    kinds: tuple[str, ...] = ()
    scale: torch.Tensor | None = None

    def apply(self, block: Block) -> Block:
        """Return the block with unscaled gradients, or with its rows flagged as scaled."""
        if not self.kinds:
            return block
        if self.scale is None:
            return _flagged(block, self.kinds)
        return _divided(block, self.kinds, float(self.scale))


def _is_half_autocast() -> bool:
    return any(
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.float16
        for device in ("cuda", "cpu")
    )


def _rows_of(block: Block, kinds: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    names = [kind.partition(".")[0] for kind in block.kinds]
    wanted = [
        i
        for i, name in enumerate(names)
        if (name if name == _BEFORE_CLIP else basic_kind(name)) in kinds
    ]
    return np.isin(block.kind, wanted)


def _flagged(block: Block, kinds: tuple[str, ...]) -> Block:
    flags = block.flags.copy()
    flags[_rows_of(block, kinds)] |= np.uint8(Flags.SCALED)
    return replace(block, flags=flags)


def _divided(block: Block, kinds: tuple[str, ...], scale: float) -> Block:
    rows = _rows_of(block, kinds)
    values = dict(block.values)
    for column in COLUMNS:
        if column.power:
            numbers = block.column(column.name).copy()
            numbers[rows] /= scale**column.power
            values[column.name] = numbers
    return replace(block, values=values)
