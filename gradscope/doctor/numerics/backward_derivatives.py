"""Computes Jacobians and Hessians with backward, row by row. For small tensors."""

import torch
from torch import Tensor

from gradscope.doctor.subject.run import ForwardBackwardRun, run_subject
from gradscope.doctor.subject.subject import Subject

__all__ = ["hessian_by_backward", "jacobian_by_backward"]


def jacobian_by_backward(subject: Subject, outcome: ForwardBackwardRun, leaf: int) -> Tensor | None:
    """Return the Jacobian of the first output of `outcome`, shape (outputs, inputs).

    Runs backward once for each element of the output. None if the first output has no graph.
    """
    value, output = subject.leaves[leaf].value, outcome.outputs[0]
    if not output.requires_grad:
        return None
    rows: list[Tensor] = []
    for i in range(output.numel()):
        gradient = run_subject(subject, weigh=_OneElement(i)).gradients[leaf]
        rows.append(torch.zeros_like(value).reshape(-1) if gradient is None else gradient.reshape(-1))
    return torch.stack(rows)


class _OneElement:
    """Returns a grad_output that is 1 for one element of the first output, and 0 for all other elements."""

    def __init__(self, index: int) -> None:
        self._index: int | None = index

    def __call__(self, output: Tensor) -> Tensor:
        weights = torch.zeros_like(output, memory_format=torch.contiguous_format)
        if self._index is not None:
            weights.view(-1)[self._index] = 1
            self._index = None
        return weights


def hessian_by_backward(subject: Subject) -> Tensor | None:
    """Return the Hessian of the sum of the outputs with respect to the first leaf; None if it cannot be computed."""
    outcome = run_subject(subject, weigh=torch.ones_like, create_graph=True)
    gradient = outcome.gradients[0] if outcome.gradients and outcome.failure is None else None
    if gradient is None or not gradient.requires_grad:
        return None
    rows = []
    try:
        for element in gradient.reshape(-1):
            (row,) = torch.autograd.grad(
                element, outcome.leaves[0], retain_graph=True, allow_unused=True
            )
            rows.append(torch.zeros_like(gradient).reshape(-1) if row is None else row.reshape(-1))
    except RuntimeError:
        return None  # backward is not differentiable: a finding reports it
    return torch.stack(rows)
