"""Withholding gradients from an optimizer's step, and giving them back.

An optimizer passes over a parameter whose `.grad` is None: neither the parameter nor the optimizer's
own state changes, nor does weight decay act. So a step is skipped without its knowing. What is computed
inside of a closure cannot be withheld.
"""

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.hooks import parameters_of

__all__ = ["HiddenGradients"]


class HiddenGradients:
    """Gradients that were taken away, until `give_back`."""

    def __init__(self) -> None:
        self._taken: list[tuple[nn.Parameter, torch.Tensor]] = []

    def take(self, optimizer: Optimizer) -> None:
        """Take all gradients away, so that the optimizer finds nothing to do."""
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None:
                self._taken.append((parameter, parameter.grad))
                parameter.grad = None

    def give_back(self) -> None:
        """Put each gradient back where it was."""
        if not self._taken:
            return
        taken, self._taken = self._taken, []
        for parameter, gradient in taken:
            parameter.grad = gradient
