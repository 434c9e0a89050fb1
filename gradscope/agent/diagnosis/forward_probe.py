"""`ForwardProbe`: number format and rank of each module's output, and which modules ran under no_grad."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from gradscope.findings.facts import OutputForm
from gradscope.hooks import has_compiled, hidden_from_modes, is_traced

__all__ = ["ForwardProbe"]


class ForwardProbe:
    """Watches the forward passes of a step through a global hook, between `install` and `remove`.

    Reads no element. A module whose outputs have several forms in one step has none.
    """

    def __init__(self, give_up: Callable[[Exception], None]) -> None:
        self._give_up = give_up
        self._handle: RemovableHandle | None = None
        self._names: dict[int, str] = {}
        self._forms: dict[str, set[OutputForm]] = defaultdict(set)
        self._first: dict[str, set[OutputForm]] = defaultdict(set)
        self._without_graph: set[str] = set()
        self._is_watched = False

    def install(self, model: nn.Module) -> None:
        """Begin a step."""
        self.remove()
        self._forms.clear()
        self._without_graph.clear()
        self._is_watched = False
        if not has_compiled():
            self._names = {id(module): name for name, module in model.named_modules()}
            self._is_watched = True
            self._handle = register_module_forward_hook(self._on_forward)

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def keep_as_first(self) -> None:
        """Add the forms of this step to the forms with which the run began."""
        for name, forms in self._forms.items():
            self._first[name] |= forms

    def form(self, name: str) -> OutputForm | None:
        """Return the form of a module's output in this step."""
        return _only(self._forms.get(name))

    def first_form(self, name: str) -> OutputForm | None:
        """Return the form of a module's output at the beginning of the run."""
        return _only(self._first.get(name))

    def has_run_without_graph(self, name: str) -> bool | None:
        """Return whether a module in training mode ran in this step, but never with gradients enabled.

        None if this step was not watched.
        """
        return None if not self._is_watched else name in self._without_graph and name not in self._forms

    def _on_forward(self, module: nn.Module, _args: Any, output: Any) -> None:  # Any: as in torch
        name = self._names.get(id(module))
        if name is None or is_traced():
            return
        try:
            if torch.is_grad_enabled():
                with hidden_from_modes():
                    self._note_form(name, output)
            elif module.training:
                self._without_graph.add(name)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self.remove()
            self._give_up(error)

    def _note_form(self, name: str, output: Any) -> None:  # Any: as above
        first = output[0] if isinstance(output, tuple) and output else output
        is_plain = isinstance(first, torch.Tensor) and first.is_floating_point()
        form = OutputForm(str(first.dtype).removeprefix("torch."), first.dim()) if is_plain else None
        self._forms[name].update(() if form is None else (form,))


def _only(forms: set[OutputForm] | None) -> OutputForm | None:
    return next(iter(forms)) if forms is not None and len(forms) == 1 else None
