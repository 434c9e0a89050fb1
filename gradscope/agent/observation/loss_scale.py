"""Gradients under a loss scale (AMP): shown as they truly are, or said to be scaled.

A GradScaler multiplies the loss, so every gradient of the backward pass is multiplied too. It divides
the parameters' gradients before the optimizer steps, unless the optimizer is a fused one that divides
inside. It skips the step when it finds an infinity; most optimizers are then not called at all.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

from gradscope.columns import COLUMNS, Block, Flags

__all__ = ["LossScale"]

_SCALED_KINDS = ("grad",)
_SCALED_INSIDE = ("grad", "param_grad")
_BEFORE_CLIP = "param_grad_before_clip"


class LossScale:
    """What is known of the loss scale in the step in progress. Without a scaler: whether to warn."""

    def __init__(self, scaler: GradScaler | None) -> None:
        self._scaler = scaler
        self._iteration: object = None
        self._is_inside = False
        self._is_scaled_at_clipping = False
        self._is_suspect = False

    def begin(self) -> None:
        """Begin a step."""
        self._iteration = None
        self._is_inside = False
        self._is_scaled_at_clipping = False
        self._is_suspect = False

    @property
    def has_scaler(self) -> bool:
        """Whether there is a scaler, which may skip an iteration amid what is taken for one step."""
        return self._scaler is not None

    def now(self) -> torch.Tensor | None:
        """Return what gradients are multiplied by in backward; None for nothing, or nothing known."""
        if self._scaler is None or not self._scaler.is_enabled():
            return None
        scale: torch.Tensor | None = self._scaler._scale  # noqa: SLF001 - get_scale() would wait for the device
        return scale

    def note_forward(self) -> bool:
        """Note a forward; return whether the scaler has skipped an iteration since the step began.

        The scaler makes a new table of states at each `update()`, which ends an iteration: a new one
        between two forwards of a step tells that the first ended without the optimizer.
        """
        if self._scaler is None:
            if not self._is_suspect and torch._C._is_any_autocast_enabled():  # noqa: SLF001 - the quick question
                self._is_suspect = _is_half_autocast()
            return False
        if not self._scaler.is_enabled():
            return False
        iteration = self._scaler._per_optimizer_states  # noqa: SLF001 - the only trace that update() leaves
        was_skipped = self._iteration is not None and iteration is not self._iteration
        self._iteration = iteration
        return was_skipped

    def note_clipping(self) -> None:
        """Note whether gradients are still scaled when the script clips them."""
        if self._scaler is not None and self._scaler.is_enabled():
            states = self._scaler._per_optimizer_states.values()  # noqa: SLF001 - as above
            self._is_scaled_at_clipping = all(s["stage"] is OptState.READY for s in states)

    def note_optimizer(self, optimizer: Optimizer) -> None:
        """Note whether the parameters' gradients are still scaled when the optimizer gets them."""
        self._is_inside = getattr(optimizer, "grad_scale", None) is not None

    def correction(self) -> Callable[[Block], Block]:
        """Return what makes this step's block true, to be called once it is on the host."""
        kinds = _SCALED_INSIDE if self._is_inside else _SCALED_KINDS
        if self._is_scaled_at_clipping:
            kinds = (*kinds, _BEFORE_CLIP)
        if self._scaler is None:
            return (lambda block: _flagged(block, kinds)) if self._is_suspect else (lambda block: block)
        scale = self.now()
        if scale is None:
            return lambda block: block
        if scale.device.type == "cuda":
            pinned = torch.empty((), dtype=scale.dtype, pin_memory=True)
            host = pinned.copy_(scale.reshape(()), non_blocking=True)
        else:
            host = scale.clone()
        return lambda block: _divided(block, kinds, float(host))


def _is_half_autocast() -> bool:
    return any(
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.float16
        for device in ("cuda", "cpu")
    )


def _rows_of(block: Block, kinds: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    wanted = [i for i, kind in enumerate(block.kinds) if _family(kind) in kinds]
    return np.isin(block.kind, wanted)


def _family(kind: str) -> str:
    """Return what a kind belongs to: `grad` at outputs, `param_grad`, or that before clipping."""
    if kind.startswith(_BEFORE_CLIP):
        return _BEFORE_CLIP
    return "param_grad" if kind.startswith("param_grad") else re.split(r"[._]", kind, maxsplit=1)[0]


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
