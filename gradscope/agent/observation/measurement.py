"""`Measurement`: the row buffer for the observed steps of a model, and the observers that fill it."""

import time
from collections.abc import Sequence
from typing import Literal

import torch
from torch.optim import Optimizer

from gradscope.agent.observation.guard import ObservingGuard
from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.observation.observed_step import PendingStep
from gradscope.agent.observation.replicas import Replicas
from gradscope.columns import INPUT_KIND, Block
from gradscope.hooks import (
    LayerInfo,
    find_tensors,
    gradient_of,
    hidden_from_modes,
    is_in_backward,
    is_plain,
    parameters_of,
)
from gradscope.observe import (
    ActivationObserver,
    LayerSlot,
    ParameterObserver,
    RecordOutput,
    RowBuffer,
    Token,
)

__all__ = ["Measurement"]


class Measurement:
    """Observes steps, each from `begin` to `end`. If the model changes, a new Measurement is made.

    names: all layers of the model. infos: the layers to observe. layers: whether these are all of them.

    Attributes:
        activations: observes outputs and their gradients.
        parameters: observes parameters, their gradients and their updates.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        infos: Sequence[LayerInfo],
        revision: int,
        *,
        is_full: bool,
        has_digest: bool,
        loss_scale: LossScale,
        guard: ObservingGuard,
        layers: Literal["all", "focus"] = "all",
    ) -> None:
        self._names = names
        self._revision = revision
        self._layers = layers
        self._loss_scale = loss_scale
        self._guard = guard
        self._rows = RowBuffer(is_full=is_full, has_digest=has_digest)
        self.activations = ActivationObserver(self._rows, self._on_gradient, self._on_native_error)
        self.parameters = ParameterObserver(self._rows, infos)
        self._replicas = Replicas(infos)

    @property
    def native_recorder(self) -> RecordOutput | None:
        """The C function that observes most outputs; None if all outputs must be observed in Python."""
        return None if self._loss_scale.has_scaler else self.activations.record_output

    def begin(self) -> None:
        """Begin a step."""
        self.activations.begin()
        self.parameters.begin()
        self._loss_scale.begin()

    def end(self, step: int, step_time_s: float) -> PendingStep:
        """End the step and return its statistics."""
        self.activations.end()
        return PendingStep(
            names=self._names,
            revision=self._revision,
            step=step,
            time_s=time.time(),
            step_time_s=step_time_s,
            layers=self._layers,
            readout=self._rows.read_out(),
            correction=self._loss_scale.correction(),
            replicas=self._replicas,
        )

    def peek(self) -> tuple[tuple[str, ...], Block]:
        """Return the layers and the statistics of the step so far. Waits for the device."""
        return self._names, self._loss_scale.correction().apply(self._rows.peek())

    def follow_parameters(self, infos: Sequence[LayerInfo], revision: int) -> None:
        """Observe the parameters that the layers own now, after parameters were replaced."""
        self._revision = revision
        self.parameters = ParameterObserver(self._rows, infos)
        self._replicas = Replicas(infos)

    def abandon(self) -> None:
        """Discard the step in progress."""
        self.activations.end()
        self.parameters.forget()
        self.parameters.begin()
        self._rows.read_out()

    def record_output(self, slot: LayerSlot, output: object) -> bool:
        """Observe an output. Return whether it is the first of a new iteration, after a skipped one."""
        was_skipped = self._loss_scale.note_forward()
        if was_skipped:
            self.abandon()
            self.activations.begin()
        self.activations.on_output(slot, output)
        return was_skipped

    def record_inputs(self, inputs: object) -> None:
        """Observe the tensors that the model is called with, as kind `input` of the model itself."""
        for path, tensor in find_tensors(inputs, of_any_dtype=True):
            self._rows.add(self._rows.row(0, f"{INPUT_KIND}.{path}"), tensor)

    def before_clip(self, parameters: Sequence[torch.Tensor]) -> None:
        """Observe gradients that the script is about to clip."""
        self._loss_scale.note_clipping()
        self.parameters.before_clip(parameters)

    def before_optimizer(self, optimizer: Optimizer, *, has_closure: bool) -> None:
        """Observe an optimizer's parameters, and their gradients unless a closure computes these.

        In a backward pass, an optimizer may step once for each parameter: only those with a gradient count.
        """
        self._loss_scale.note_optimizer(optimizer)
        parameters = parameters_of(optimizer)
        if is_in_backward():
            parameters = [p for p in parameters if gradient_of(p) is not None]
        if has_closure:
            self.parameters.before_closure(parameters)
        else:
            self.parameters.before(parameters)

    def _on_gradient(self, token: Token, gradient: torch.Tensor) -> None:
        """Observe the gradient of an output. Called by tensor hooks in the backward pass."""
        began_s = time.perf_counter()
        try:
            if is_plain(gradient):
                self.activations.add_gradient(token, gradient)
            else:
                with hidden_from_modes():
                    self.activations.add_gradient(token, gradient)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._guard.give_up("observing gradients", error)
        self._guard.spent_s += time.perf_counter() - began_s

    def _on_native_error(self, error: Exception) -> None:
        self._guard.give_up("observing in C", error)
