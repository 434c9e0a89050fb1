"""What is measured in the observed steps of a model as it stands: its board, and what fills it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.observation.replicas import Replicas
from gradscope.columns import Block, Table
from gradscope.hooks import LayerInfo, Seen, parameters_of
from gradscope.observe import (
    ActivationObserver,
    LayerSlot,
    ParameterObserver,
    Readout,
    RecordOutput,
    RowBuffer,
    Token,
)

__all__ = ["EndedStep", "FinishedStep", "Measurement", "OnGradient"]


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """One observed step. `cost` is the fraction of time that observing takes at present.

    `names` are the layers that the block's rows speak of: those of the manifest's `revision`. A focus step
    has rows of a few of them only; `every` and `cost` are then those of the focus.
    """

    names: tuple[str, ...]
    revision: int
    step: int
    time_s: float
    step_time_s: float
    every: int
    cost: float | None
    block: Block
    is_focus: bool = False

    def table(self, rank: int) -> Table:
        """Return it as a person reads it."""
        return Table(self.step, self.names, self.block, every=self.every, cost=self.cost, ranks=(rank,))


@dataclass(frozen=True, slots=True)
class EndedStep:
    """A step that has ended and whose numbers may still be on their way from the device.

    `names` are the layers that its rows speak of: those of the manifest's `revision`.
    """

    harvest: Readout
    correct: Callable[[Block], Block]
    names: tuple[str, ...]
    revision: int
    step: int
    time_s: float
    step_time_s: float
    is_focus: bool = False

    def finished(self, every: int, cost: float | None) -> FinishedStep:
        """Return the step with its rows, true to the loss scale; waits for a device not ready."""
        return FinishedStep(
            names=self.names,
            revision=self.revision,
            step=self.step,
            time_s=self.time_s,
            step_time_s=self.step_time_s,
            every=every,
            cost=cost,
            block=self.correct(self.harvest.block()),
            is_focus=self.is_focus,
        )


class Measurement:
    """Measures steps, each from `begin` to `end`. A model that has changed gets another one.

    `names` are all layers of the model; `layers` are those to measure: all, or in a focus step a few.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        layers: Sequence[LayerInfo],
        revision: int,
        *,
        is_full: bool,
        loss_scale: LossScale,
        on_gradient: "OnGradient",
        give_up: Callable[[Exception], None],
        is_focus: bool = False,
    ) -> None:
        self._names = names
        self._revision = revision
        self._is_focus = is_focus
        self._loss_scale = loss_scale
        self._board = RowBuffer(is_full=is_full)
        self._activations = ActivationObserver(self._board, partial(on_gradient, self), give_up)
        self._parameters = ParameterObserver(self._board, layers)
        self._replicas = Replicas(layers)

    @property
    def see(self) -> RecordOutput | None:
        """What deals with most outputs in C, and says whether it has; None where there is none."""
        return None if self._loss_scale.has_scaler else self._activations.record_output

    def take(self) -> tuple[float, int]:
        """Return the seconds spent in C and the outputs seen there, since it was last asked."""
        return self._activations.take()

    def begin(self) -> None:
        """Begin a step."""
        self._activations.begin()
        self._loss_scale.begin()

    def end(self, step: int, step_time_s: float) -> EndedStep:
        """End the step and hand out what it left."""
        self._activations.end()
        correct, harvest = self._loss_scale.correction(), self._board.harvest()
        marked = self._replicas.marked
        correct_all = lambda block: marked(correct(block))  # noqa: E731 - one use
        return EndedStep(
            harvest,
            correct_all,
            self._names,
            self._revision,
            step,
            time.time(),
            step_time_s,
            self._is_focus,
        )

    def peek(self) -> tuple[tuple[str, ...], Block]:
        """Return the layers, and what the step has left of them so far; waits for the device."""
        correct, block = self._loss_scale.correction(), self._board.peek()
        return self._names, correct(block)

    def follow_parameters(self, layers: Sequence[LayerInfo], revision: int) -> None:
        """Measure the parameters that the same layers own now; those of before are let go."""
        self._revision = revision
        self._parameters = ParameterObserver(self._board, layers)
        self._replicas = Replicas(layers)

    def abandon(self) -> None:
        """Let go of a step that comes to no end."""
        self._activations.end()
        self._parameters.forget()
        self._board.harvest()

    def see_output(self, slot: LayerSlot, output: object) -> bool:
        """Measure what a layer returned. Return whether this began an iteration after a skipped one."""
        was_skipped = self._loss_scale.note_forward()
        if was_skipped:
            self.abandon()
            self._activations.begin()
        self._activations.on_output(slot, output)
        return was_skipped

    def see_compiled(self, layer: int, what: Seen, path: str, tensor: torch.Tensor) -> None:
        """Measure what a compiled graph has shown."""
        self._activations.add_compiled(layer, what, path, tensor)

    def see_arriving(self, slot: LayerSlot, tensor: torch.Tensor) -> None:
        """Watch the gradient that arrives at a layer's intervention."""
        self._activations.watch_arriving(slot, tensor)

    def see_gradient(self, token: Token, gradient: torch.Tensor) -> None:
        """Measure a gradient at an output."""
        self._activations.add_gradient(token, gradient)

    @property
    def has_only_finite(self) -> bool:
        """Whether all gradients that the optimizer is about to use were measured, and are finite."""
        return self._parameters.has_only_finite

    def knows(self, parameters: Sequence[torch.Tensor]) -> bool:
        """Return whether any of them is a watched parameter."""
        return self._parameters.knows(parameters)

    def before_clip(self, parameters: Sequence[torch.Tensor]) -> None:
        """Measure gradients that the script is about to clip."""
        self._loss_scale.note_clipping()
        self._parameters.before_clip(parameters)

    def see_arriving_parameters(self, parameters: Sequence[nn.Parameter]) -> None:
        """Measure gradients of parameters before they are changed."""
        self._parameters.see_arriving(parameters)

    def before_optimizer(self, optimizer: Optimizer, *, has_closure: bool) -> None:
        """Measure an optimizer's parameters, and their gradients where it does not compute them."""
        self._loss_scale.note_optimizer(optimizer)
        parameters = parameters_of(optimizer)
        if has_closure:
            self._parameters.before_closure(parameters)
        else:
            self._parameters.before(parameters)

    def after_closure(self, optimizer: Optimizer) -> None:
        """Measure the gradients that a closure has computed."""
        self._parameters.measure_gradients(parameters_of(optimizer))

    def after_optimizer(self) -> None:
        """Measure what the optimizer changed."""
        self._parameters.after()

    def see_parameters(self, parameters: Sequence[nn.Parameter]) -> None:
        """Measure parameters and gradients that no optimizer is going to change."""
        self._parameters.before(parameters)
        self._parameters.forget()


OnGradient: TypeAlias = Callable[[Measurement, Token, torch.Tensor], None]
"""Called by hooks on tensors: it is to call `see_gradient` of that measurement."""
