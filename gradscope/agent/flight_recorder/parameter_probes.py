"""`ParameterProbes`: hooks on a few small parameters, which see the gradients of a backward pass.

They are needed while the nonfinite check does not read all gradients in every step.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

__all__ = ["ParameterProbes"]

_PROBES: Final = 2


class ParameterProbes:
    """Calls `on_gradient(parameter)` when a gradient was accumulated in one of two small parameters.

    These are the smallest of the first layer, which a NaN of the backward pass reaches, and of one in the middle, for a
    model with branches.
    """

    def __init__(self, on_gradient: Callable[[torch.Tensor], None]) -> None:
        self._on_gradient = on_gradient
        self._handles: list[RemovableHandle] = []
        self._first: weakref.ref[nn.Parameter] | None = None

    @property
    def version(self) -> int:
        """The version counter of the first parameter: whether an optimizer has stepped; -1 if there is none."""
        parameter = None if self._first is None else self._first()
        return -1 if parameter is None else parameter._version  # noqa: SLF001 - torch counts the changes of a tensor

    def install(self, model: nn.Module, *, has_hooks: bool) -> None:
        """Choose the parameters. has_hooks: install the hooks too."""
        self.remove()
        layers = list(_smallest_parameters(model))
        for parameter in layers[: 1 if len(layers) < 3 else None : max(1, len(layers) // 2)][:_PROBES]:
            if self._first is None:
                self._first = weakref.ref(parameter)
            if not has_hooks:
                return
            handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]  # torch does not annotate it
            self._handles.append(handle)

    def remove(self) -> None:
        """Remove the hooks."""
        self._first = None
        while self._handles:
            self._handles.pop().remove()


def _smallest_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the smallest trainable parameter of each module that has one, in order and once."""
    seen = set()
    for module in model.modules():
        parameters = module._parameters.values()  # noqa: SLF001 - far faster than named_parameters()
        own = [p for p in parameters if p is not None and _can_be_hooked(p)]
        smallest = min(own, key=torch.Tensor.numel, default=None)
        if smallest is not None and id(smallest) not in seen:
            seen.add(id(smallest))
            yield smallest


def _can_be_hooked(parameter: torch.Tensor) -> bool:
    return parameter.requires_grad and parameter.is_leaf and not is_lazy(parameter)
