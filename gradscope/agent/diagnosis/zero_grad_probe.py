"""`ZeroGradProbe`: whether gradients of earlier steps are still there when backward begins."""

import weakref
from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradscope.hooks import GradientHook, has_compiled

__all__ = ["ZeroGradProbe"]


class ZeroGradProbe:
    """Watches one parameter of each optimizer, from a step of the optimizer to its next one.

    A hook runs before a new gradient is added. It compares the identity and the version counter of
    `.grad` with those after the optimizer's step, so no element is read: `zero_grad()` either drops the
    tensor or writes to it. With several backward passes between two steps, the gradient is left only if
    none of them finds it zeroed.
    """

    def __init__(self) -> None:
        self._watches: dict[int, _Watch] = {}

    def choose_parameters(self, model: nn.Module, with_gradient: Mapping[int, Collection[int]]) -> None:
        """Choose the smallest parameter with a gradient of each optimizer that has just stepped.

        with_gradient: by the id of the optimizer, the ids of its parameters that have a gradient.
        """
        if has_compiled():
            self.forget()
            return
        named = list(model.named_parameters())
        for optimizer, ids in with_gradient.items():
            self._watches.pop(optimizer, None)
            candidates = [
                (parameter.numel(), name, parameter)
                for name, parameter in named
                if id(parameter) in ids and parameter.grad is not None
            ]
            if candidates:
                _, name, parameter = min(candidates, key=lambda each: each[:2])
                if parameter._backward_hooks is None:  # noqa: SLF001 - a hook of the script stays alone
                    self._watches[optimizer] = _Watch(name, parameter)

    def begin(self) -> None:
        """Install the hooks for this step."""
        for watch in self._watches.values():
            watch.install()

    def end(self, stepped: Collection[int]) -> Mapping[str, bool]:
        """Remove the hooks. Return the results by the name of the parameter, of the optimizers that stepped.

        Nothing is returned for a parameter that backward did not reach.
        """
        for watch in self._watches.values():
            watch.remove()
        return {
            watch.name: watch.is_left
            for optimizer, watch in self._watches.items()
            if optimizer in stepped and watch.is_left is not None
        }

    def forget(self) -> None:
        """Drop what was noted, because the next steps are not watched."""
        self.end(())
        self._watches.clear()


class _Watch:
    """A parameter and the state of its gradient after a step. `is_left`: None if backward has not reached it."""

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name = name
        self.is_left: bool | None = None
        self._parameter = weakref.ref(parameter)
        gradient = parameter.grad
        self._gradient = None if gradient is None else weakref.ref(gradient)
        self._version = -1 if gradient is None else gradient._version  # noqa: SLF001 - the public API has none
        self._handle: RemovableHandle | None = None

    def install(self) -> None:
        parameter = self._parameter()
        if parameter is not None and parameter.requires_grad and parameter._backward_hooks is None:  # noqa: SLF001 - see above
            self._handle = parameter.register_hook(GradientHook(self._compare, parameter))  # type: ignore[no-untyped-call]  # torch does not annotate it

    def remove(self) -> None:
        parameter = self._parameter()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            if parameter is not None and not parameter._backward_hooks:  # noqa: SLF001 - leaves it as it was
                parameter._backward_hooks = None  # noqa: SLF001 - as above

    def _compare(self, parameter: nn.Parameter, _gradient: torch.Tensor) -> None:
        left, before = parameter.grad, None if self._gradient is None else self._gradient()
        is_left = left is not None and left is before and left._version == self._version  # noqa: SLF001 - see above
        self.is_left = is_left and self.is_left is not False
        self._version += (
            1  # the new gradient is added in place; zeroing also writes, or drops the tensor
        )
