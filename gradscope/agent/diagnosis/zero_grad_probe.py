"""`ZeroGradProbe`: whether the gradient of the previous step is still there when backward begins."""

import weakref
from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradscope.hooks import GradientHook, has_compiled

__all__ = ["ZeroGradProbe"]


class ZeroGradProbe:
    """Watches one parameter. Compares its `.grad` at the end of a step with that in the next backward.

    The hook runs before a new gradient is added. It compares the identity and the version counter of
    the tensor, so no element is read: `zero_grad()` either drops the tensor or writes to it. With
    several backward passes in a step, the gradient is left only if none of them finds it zeroed.
    """

    def __init__(self) -> None:
        self._name = ""
        self._parameter: weakref.ref[nn.Parameter] | None = None
        self._gradient: weakref.ref[torch.Tensor] | None = None
        self._version = -1
        self._handle: RemovableHandle | None = None
        self._is_left: bool | None = None

    def choose(self, model: nn.Module, with_gradient: Collection[int]) -> None:
        """Choose the smallest parameter with a gradient, and note the state of its gradient."""
        candidates = [
            (parameter.numel(), name, parameter)
            for name, parameter in model.named_parameters()
            if id(parameter) in with_gradient and parameter.grad is not None
        ]
        self._parameter = None
        if not candidates or has_compiled():
            return
        _, self._name, parameter = min(candidates, key=lambda each: each[:2])
        gradient = parameter.grad
        if gradient is not None and parameter._backward_hooks is None:  # noqa: SLF001 - a hook of the script stays alone
            self._parameter = weakref.ref(parameter)
            self._gradient, self._version = weakref.ref(gradient), gradient._version  # noqa: SLF001 - the public API has none

    def begin(self) -> None:
        """Install the hook for this step."""
        parameter = None if self._parameter is None else self._parameter()
        self._is_left = None
        if parameter is not None and parameter.requires_grad:
            self._handle = parameter.register_hook(GradientHook(self._compare, parameter))  # type: ignore[no-untyped-call]  # torch does not annotate it

    def end(self) -> Mapping[str, bool]:
        """Remove the hook. Return the result by the name of the parameter; nothing if backward did not run."""
        parameter = None if self._parameter is None else self._parameter()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            if parameter is not None and not parameter._backward_hooks:  # noqa: SLF001 - leaves it as it was
                parameter._backward_hooks = None  # noqa: SLF001 - as above
        return {} if self._is_left is None else {self._name: self._is_left}

    def _compare(self, parameter: nn.Parameter, _gradient: torch.Tensor) -> None:
        left, before = parameter.grad, None if self._gradient is None else self._gradient()
        is_left = left is not None and left is before and left._version == self._version  # noqa: SLF001 - see above
        self._is_left = is_left and self._is_left is not False
        self._version += (
            1  # the new gradient is added in place; zeroing also writes, or drops the tensor
        )
