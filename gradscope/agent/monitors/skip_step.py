"""Skips an optimizer step by hiding the gradients from the optimizer.

An optimizer ignores a parameter whose `.grad` is None: the parameter and the optimizer state stay
unchanged, and no weight decay is applied. Gradients that the optimizer computes in a closure are hidden in
the closure.
"""

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.hooks import parameters_of

__all__ = ["HiddenGradients"]


class HiddenGradients:
    """Gradients that were removed from their parameters until `restore` is called."""

    def __init__(self) -> None:
        self._hidden: list[tuple[nn.Parameter, torch.Tensor]] = []

    @property
    def are_hidden(self) -> bool:
        """Whether any gradient is hidden."""
        return bool(self._hidden)

    def hide(self, optimizer: Optimizer) -> None:
        """Set `.grad` of the optimizer's parameters to None, so that its step has no effect."""
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None

    def restore(self) -> None:
        """Restore each hidden gradient."""
        if not self._hidden:
            return
        hidden, self._hidden = self._hidden, []
        for parameter, gradient in hidden:
            parameter.grad = gradient
