"""`ParameterObserver`: records parameters, their gradients and their updates around an optimizer's step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from gradscope.hooks import LayerInfo, local_part
from gradscope.observe.free_memory import free_bytes
from gradscope.observe.row_buffer import RowBuffer, Targets, room_for

__all__ = ["ParameterObserver"]

_PLANS = 16
"""Maximum number of cached plans. If there are more, the cache is cleared."""

_KEPT_BYTES = 64 * 1024 * 1024

_SHARE = 0.5
"""The largest part of the free memory that copies may take: the optimizer needs memory too while they exist."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The watched parameters of one optimizer, and the rows of each parameter."""

    places: tuple[int, ...]
    param: list[Targets]
    param_grad: list[Targets]
    update: list[Targets]
    room_bytes: int
    sizes: dict[torch.device, int]
    """The bytes of the parameters on each device."""

    def all_rows(self) -> list[Targets]:
        """Return all rows that the optimizer's step writes."""
        return [*self.param, *self.param_grad, *self.update]

    def known(self, parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
        """Return the watched parameters, in the order of their rows."""
        return [parameters[i] for i in self.places]


@dataclass(frozen=True, slots=True)
class _Kept:
    """Copies of parameters: most are in one byte array, others are tensors by index."""

    plan: _Plan
    parameters: list[torch.Tensor]
    update: list[Targets]
    memory: NDArray[np.uint8]
    copies: dict[int, torch.Tensor]


class ParameterObserver:
    """Records `param` and `param_grad` before an optimizer steps, and `update` after the step.

    Each parameter has its own row (`param_grad.weight`) and shares one row with the layer's other parameters
    (`param_grad`). `before` copies the parameters that have a gradient, until `after`; if the copies would take more
    than half of the free memory of a device, `update` is not measured. If the script clips gradients,
    `param_grad_before_clip` holds the gradients before clipping.
    """

    def __init__(self, buffer: RowBuffer, layers: Sequence[LayerInfo]) -> None:
        self._buffer = buffer
        self._names: dict[int, tuple[tuple[int, str], ...]] = {}
        for layer in layers:
            if layer.is_watched:
                for name, parameter in layer.parameters.items():
                    owners = self._names.get(id(parameter), ())
                    self._names[id(parameter)] = (*owners, (layer.index, name))
        self._plans: dict[tuple[int, ...], _Plan] = {}
        self._unclipped: dict[int, Targets] = {}
        self._seen_unclipped: set[int] = set()
        self._kept: list[_Kept] = []
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self.has_only_finite = False
        """Whether `before` has read all gradients of its parameters and all of them were finite."""
        self.no_update_reason = ""
        """Why the newest step has no `update`: the copies need too much memory. Empty if it is measured."""

    def knows(self, parameters: Sequence[torch.Tensor]) -> bool:
        """Return whether any of the parameters is watched."""
        return any(id(p) in self._names for p in parameters)

    def before_clip(self, parameters: Sequence[torch.Tensor]) -> None:
        """Record gradients that are about to be clipped, each once per step."""
        given: list[tuple[torch.Tensor, Targets]] = []
        for parameter in parameters:
            key = id(parameter)
            if parameter.grad is None or key not in self._names or key in self._seen_unclipped:
                continue
            if key not in self._unclipped:
                self._unclipped[key] = self._rows("param_grad_before_clip", parameter)
            self._seen_unclipped.add(key)
            given.append((parameter.grad, self._unclipped[key]))
        self._buffer.add_each([g for g, _ in given], [rows for _, rows in given])

    def record_arriving(self, parameters: Sequence[nn.Parameter]) -> None:
        """Record `param_grad_arriving`: gradients that an intervention is about to change."""
        given = [
            (p.grad, self._rows("param_grad_arriving", p))
            for p in parameters
            if p.grad is not None and id(p) in self._names
        ]
        self._buffer.add_each([g for g, _ in given], [rows for _, rows in given])

    def before(self, parameters: Sequence[nn.Parameter]) -> None:
        """Record values and gradients, and copy the parameters that the optimizer may change."""
        self._give_up_unfinished()
        plan = self._plan(parameters)
        known = plan.known(parameters)
        bare, is_read = self._buffer.add_gradients(known, plan.param_grad)
        self._measure_and_keep(plan, known, stays=bare)
        is_all = is_read and not bare and len(known) == len(parameters)
        self.has_only_finite = is_all and self._buffer.are_finite(plan.param_grad)

    def before_closure(self, parameters: Sequence[nn.Parameter]) -> None:
        """Record and copy the values. The gradients are recorded later, when the closure has computed them."""
        self._give_up_unfinished()
        self.has_only_finite = False
        plan = self._plan(parameters)
        known = plan.known(parameters)
        self._measure_and_keep(
            plan, known, stays=[i for i, p in enumerate(known) if not p.requires_grad]
        )

    def measure_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Record `param_grad` of the parameters that have a gradient."""
        plan = self._plan(parameters)
        self._buffer.add_gradients(plan.known(parameters), plan.param_grad)

    def after(self) -> None:
        """Record the change since `before`, Δw; on a CPU each difference is computed in float64."""
        for kept in self._kept:
            left = self._buffer.add_changes(kept.parameters, kept.update, kept.memory)
            copied = [i for i in left if i in kept.copies]
            self._buffer.add_each_change(
                [local_part(kept.parameters[i]).detach() for i in copied],
                [kept.update[i] for i in copied],
                [kept.copies[i] for i in copied],
            )
            for i in left:
                if i not in kept.copies:
                    self._buffer.mark_unmeasured(kept.update[i])
        self.forget()

    def forget(self) -> None:
        """Discard the data of a step, also of one that has not ended.

        Memory of moderate size is kept for the next step, because the operating system provides new
        memory page by page, which takes longer than filling it.
        """
        for kept in self._kept:
            if kept.memory.nbytes <= _KEPT_BYTES:
                self._memory[id(kept.plan)] = kept.memory
        self._kept.clear()

    def begin(self) -> None:
        """Begin a step: record gradients before clipping again."""
        self._seen_unclipped.clear()

    def _give_up_unfinished(self) -> None:
        """Flag the rows of optimizers whose step has raised as not measured in this step."""
        for kept in self._kept:
            for targets in kept.plan.all_rows():
                self._buffer.mark_unmeasured(targets)
        self._kept.clear()

    def _plan(self, parameters: Sequence[nn.Parameter]) -> _Plan:
        key = tuple(map(id, parameters))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) == _PLANS:
                self._plans.clear()
                self._memory.clear()
            plan = self._plans[key] = self._make_plan(parameters)
        return plan

    def _make_plan(self, parameters: Sequence[nn.Parameter]) -> _Plan:
        places = tuple(i for i, p in enumerate(parameters) if id(p) in self._names)
        known = [parameters[i] for i in places]
        return _Plan(
            places,
            param=[self._rows("param", p) for p in known],
            param_grad=[self._rows("param_grad", p) for p in known],
            update=[self._rows("update", p) for p in known],
            room_bytes=room_for(known),
            sizes=_sizes(known),
        )

    def _rows(self, kind: str, parameter: torch.Tensor) -> Targets:
        row = self._buffer.row
        return tuple(
            each
            for layer, name in self._names[id(parameter)]
            for each in (row(layer, kind), row(layer, f"{kind}.{name}"))
        )

    def _measure_and_keep(
        self, plan: _Plan, known: list[torch.Tensor], *, stays: Sequence[int]
    ) -> None:
        """Record the values of all `known` parameters, and copy all except those at the indices `stays`."""
        param, update = plan.param, plan.update
        if stays:
            self._buffer.add_each([known[i] for i in stays], [param[i] for i in stays])
            moves = [True] * len(known)
            for i in stays:
                moves[i] = False
            known = list(compress(known, moves))
            param, update = list(compress(param, moves)), list(compress(update, moves))
        self.no_update_reason = _lack_of_memory(plan.sizes)
        if self.no_update_reason:
            self._buffer.add_each(known, param)
            for rows in update:
                self._buffer.mark_unmeasured(rows)
            return
        memory = self._memory.pop(id(plan), None)
        if memory is None:
            memory = np.empty(plan.room_bytes, np.uint8)
        left = self._buffer.add_each(known, param, memory)
        copies = {i: local_part(known[i]).detach().clone() for i in left if not is_lazy(known[i])}
        self._kept.append(_Kept(plan, known, update, memory, copies))


def _sizes(parameters: Sequence[torch.Tensor]) -> dict[torch.device, int]:
    sizes: dict[torch.device, int] = {}
    for parameter in parameters:
        if not is_lazy(parameter):
            part = local_part(parameter)
            sizes[part.device] = sizes.get(part.device, 0) + part.numel() * part.element_size()
    return sizes


def _lack_of_memory(sizes: dict[torch.device, int]) -> str:
    """Return why bytes of these sizes cannot be copied on each device; empty if they can, and for small sizes."""
    for device, size in sizes.items():
        free = free_bytes(device) if size > _KEPT_BYTES else None
        if free is not None and size > _SHARE * free:
            return (
                f"copies of the parameters would take {size / 1e9:.1f} GB of the {free / 1e9:.1f} GB that are free on "
                f"{device}, more than half"
            )
    return ""
