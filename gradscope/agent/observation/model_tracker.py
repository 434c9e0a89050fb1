"""The model as it stands: its layers, what measures them, and following it when it changes."""

import sys
import weakref
from collections.abc import Callable, Sequence

from torch import nn

from gradscope.agent.observation.layer_slots import LayerSlots
from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.observation.measurement import Measurement, OnGradient
from gradscope.agent.run.settings import Settings
from gradscope.hooks import CompiledHook, LayerInfo, OwnedIds, Structure, layers_of
from gradscope.observe import native_module

__all__ = ["ModelTracker"]

_MOST_LOOKS = 8
"""A model whose root is never called is looked at so often in an observed step, and no more."""


class ModelTracker:
    """A model, held weakly, with its `measurement` and its `plan` of hooks; both may be replaced.

    `focus_measurement` measures the layers in the focus alone, on a board of its own; None where none is.

    Modules are looked at anew before anything of an observed step is measured. Parameters are looked at
    when the optimizer steps: while a forward runs, `torch.func.functional_call` puts others in their
    place.
    """

    measurement: Measurement
    focus_measurement: Measurement | None
    plan: LayerSlots
    _structure: Structure

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        *,
        compiled: CompiledHook,
        loss_scale: LossScale,
        on_layers: Callable[[Sequence[LayerInfo], int], None],
        on_gradient: OnGradient,
        give_up: Callable[[Exception], None],
    ) -> None:
        self._model = weakref.ref(model)
        self._layers = settings.layers
        self._compiled = compiled
        self._loss_scale = loss_scale
        self._is_full = settings.is_full
        self._on_layers = on_layers
        self._on_gradient = on_gradient
        self._give_up = give_up
        self._revision = self._looks_left = 0
        self._focused: tuple[str, ...] = ()
        native = native_module()
        self._owned_ids: OwnedIds | None = None if native is None else native.owned_ids
        self._look_at(model)

    def begin(self, *, is_observed: bool) -> None:
        """Begin a step. In an observed one the model is looked at again before it is measured."""
        self._looks_left = _MOST_LOOKS if is_observed else 0

    @property
    def wants_looks(self) -> bool:
        """Whether the model is to be looked at again in this step."""
        return self._looks_left > 0

    def takes_look(self) -> bool:
        """Whether to look at the model now. Its own forward is the last occasion of a step.

        A forward of one of its modules may belong to a change of the model that is under way, as
        PyTorch's removal of a parametrization calls it.
        """
        if not self._looks_left:
            return False
        self._looks_left = 0 if self._is_running() else self._looks_left - 1
        return True

    def _is_running(self) -> bool:
        """Whether a forward of the whole model is under way in this thread."""
        model, frame = self._model(), sys._getframe()  # noqa: SLF001 - asked once in an observed step
        while frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is model:
                return True
        return False

    def parameters(self) -> list[nn.Parameter]:
        """Return the model's parameters; none where it is gone."""
        model = self._model()
        return [] if model is None else list(model.parameters())

    def follow_modules(self) -> bool:
        """Begin anew where modules were added, removed or replaced; return whether they were."""
        model = self._model()
        if model is None or self._structure.has_modules_of(model):
            return False
        self._revision += 1
        self._look_at(model)
        return True

    def follow_parameters(self) -> bool:
        """Measure other parameters from now on where they were replaced; return whether they were."""
        model = self._model()
        if model is None or self._structure.has_same_parameters():
            return False
        self._revision += 1
        self._structure = Structure(model, self._owned_ids)
        layers = layers_of(model, self._layers)
        self.measurement.follow_parameters(layers, self._revision)
        self.focus(self._focused)
        self._on_layers(layers, self._revision)
        return True

    def focus(self, names: Sequence[str]) -> None:
        """Be ready to measure these layers alone, and no others."""
        self._focused = tuple(names)
        layers = self.plan.focus(self._focused)
        self._owned = [
            (weakref.ref(layer.module), name, weakref.ref(parameter))
            for layer in layers
            for name, parameter in layer.parameters.items()
        ]
        self.focus_measurement = self._make(self.plan.names, layers, is_focus=True) if layers else None

    def owns_same_in_focus(self) -> bool:
        """Whether the layers in the focus own the parameters that they owned: quicker than for all."""
        for module_of, name, parameter_of in self._owned:
            module, parameter = module_of(), parameter_of()
            if module is None or parameter is None or module._parameters.get(name) is not parameter:  # noqa: SLF001 - far faster than named_parameters()
                return False
        return True

    def abandon(self) -> None:
        """Let go of a step that comes to no end."""
        for measurement in (self.measurement, self.focus_measurement):
            if measurement is not None:
                measurement.abandon()

    def _look_at(self, model: nn.Module) -> None:
        """Find the model's layers, and begin to measure them on an empty board."""
        layers = layers_of(model, self._layers)
        self._structure = Structure(model, self._owned_ids)
        self.plan = LayerSlots(layers)
        self.measurement = self._make(self.plan.names, layers)
        self.focus(self._focused)
        self._compiled.watch(self.plan.watched())
        self._on_layers(layers, self._revision)

    def _make(
        self, names: tuple[str, ...], layers: Sequence[LayerInfo], *, is_focus: bool = False
    ) -> Measurement:
        return Measurement(
            names,
            layers,
            self._revision,
            is_full=self._is_full,
            loss_scale=self._loss_scale,
            on_gradient=self._on_gradient,
            give_up=self._give_up,
            is_focus=is_focus,
        )
