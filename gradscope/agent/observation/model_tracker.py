"""`ModelTracker`: the layers of a model and their measurements, updated when the model changes."""

import sys
import weakref
from collections.abc import Sequence
from typing import Literal

from torch import nn

from gradscope.agent.link.messages import manifest_message
from gradscope.agent.observation.guard import ObservingGuard
from gradscope.agent.observation.layer_slots import LayerSlots
from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.observation.measurement import Measurement
from gradscope.agent.run.context import RunContext
from gradscope.hooks import LayerInfo, OwnedIds, Structure, layers_of
from gradscope.observe import native_module

__all__ = ["ModelTracker"]

_SEARCH_LIMIT = 8
"""Maximum number of searches for changed modules in an observed step, if the model itself is not called."""


class ModelTracker:
    """The layers of a model and the objects that observe them. Holds a weak reference to the model.

    In an observed step, added, removed or replaced modules are searched for before anything is
    observed. Replaced parameters are searched for when the optimizer steps, because
    `torch.func.functional_call` replaces parameters temporarily during a forward pass.

    Attributes:
        names: all layers. watched_names: the layers that are observed.
        revision: counts the changes of layers and parameters.
        slots: the table of layers that the hooks use.
        measurement: observes all watched layers.
        focus_measurement: observes the layers in the focus; None if there are none.
    """

    names: tuple[str, ...]
    watched_names: tuple[str, ...]
    slots: LayerSlots
    measurement: Measurement
    focus_measurement: Measurement | None
    _structure: Structure

    def __init__(self, run: RunContext, guard: ObservingGuard, loss_scale: LossScale) -> None:
        self._run = run
        self._guard = guard
        self._loss_scale = loss_scale
        self._searches_left = 0
        self._focused: tuple[str, ...] = ()
        native = native_module()
        self._owned_ids: OwnedIds | None = None if native is None else native.owned_ids
        self.revision = 0
        model = run.model()
        if model is not None:
            self._find_layers(model)

    def begin(self, *, is_observed: bool) -> None:
        """Begin a step. In an observed step, schedule a search for changes of the model."""
        self._searches_left = _SEARCH_LIMIT if is_observed else 0

    @property
    def must_search(self) -> bool:
        """Whether changed modules must be searched for (again) in this step."""
        return self._searches_left > 0

    def takes_search(self) -> bool:
        """Return whether to search for changed modules now. The last search is in the model's own forward.

        A forward of a submodule may be part of an unfinished change of the model; for example, removing
        a parametrization runs one.
        """
        if not self._searches_left:
            return False
        self._searches_left = 0 if self._is_running() else self._searches_left - 1
        return True

    def owns(self, module: nn.Module) -> bool:
        """Return whether a module belongs to the model."""
        return self.slots.owns(module)

    def modules(self) -> dict[str, nn.Module]:
        """Return the model's modules by name."""
        return self.slots.modules()

    def parameters(self) -> list[nn.Parameter]:
        """Return the model's parameters; an empty list if the model was garbage-collected."""
        model = self._run.model()
        return [] if model is None else list(model.parameters())

    def layers(self) -> list[LayerInfo]:
        """Return the model's layers; an empty list if the model was garbage-collected."""
        model = self._run.model()
        return [] if model is None else layers_of(model, self._run.settings.layers)

    def follow_modules(self) -> bool:
        """Update the layers if modules were added, removed or replaced. Return whether there was a change."""
        model = self._run.model()
        if model is None or self._structure.has_modules_of(model):
            return False
        self.revision += 1
        self._find_layers(model)
        return True

    def follow_parameters(self) -> bool:
        """Observe the new parameters if parameters were replaced. Return whether there was a change."""
        model = self._run.model()
        if model is None or self._structure.has_same_parameters():
            return False
        self.revision += 1
        self._structure = Structure(model, self._owned_ids)
        layers = self.layers()
        self.measurement.follow_parameters(layers, self.revision)
        self.focus(self._focused)
        self._publish(model, layers)
        return True

    def focus(self, names: Sequence[str]) -> None:
        """Set the layers to observe in focus steps."""
        self._focused = tuple(names)
        layers = self.slots.focus(self._focused)
        self._owned = [
            (weakref.ref(layer.module), name, weakref.ref(parameter))
            for layer in layers
            for name, parameter in layer.parameters.items()
        ]
        self.focus_measurement = self._make(layers, "focus") if layers else None
        self._guard.measurements = tuple(
            each for each in (self.measurement, self.focus_measurement) if each is not None
        )

    def owns_same_in_focus(self) -> bool:
        """Return whether the layers in the focus still own the same parameters. Faster than a full search."""
        for module_of, name, parameter_of in self._owned:
            module, parameter = module_of(), parameter_of()
            owned = {} if module is None else module._parameters  # noqa: SLF001 - far faster than named_parameters()
            if parameter is None or name not in owned or owned[name] is not parameter:
                return False
        return True

    def abandon(self) -> None:
        """Discard the step in progress."""
        for measurement in self._guard.measurements:
            measurement.abandon()

    def _is_running(self) -> bool:
        """Return whether this thread is inside a forward of the whole model."""
        model, frame = self._run.model(), sys._getframe()  # noqa: SLF001 - once per observed step
        while frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is model:
                return True
        return False

    def _find_layers(self, model: nn.Module) -> None:
        layers = self.layers()
        self._structure = Structure(model, self._owned_ids)
        self.slots = LayerSlots(layers)
        self.names = self.slots.names
        self.watched_names = tuple(layer.name for layer in layers if layer.is_watched)
        self.measurement = self._make(layers, "all")
        self.focus(self._focused)
        self._publish(model, layers)

    def _publish(self, model: nn.Module, layers: Sequence[LayerInfo]) -> None:
        run = self._run
        run.publish_manifest(
            manifest_message(run.hello.run, run.hello.rank, self.revision, type(model).__name__, layers)
        )

    def _make(self, infos: Sequence[LayerInfo], layers: Literal["all", "focus"]) -> Measurement:
        return Measurement(
            self.slots.names,
            infos,
            self.revision,
            is_full=self._run.settings.is_full,
            has_digest=self._run.settings.has_digest,
            loss_scale=self._loss_scale,
            guard=self._guard,
            layers=layers,
        )
