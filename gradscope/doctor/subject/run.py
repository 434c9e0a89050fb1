"""`run_subject`: one forward and one backward of a subject."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.doctor.subject.instrument import FunctionCall, instrumented
from gradscope.doctor.subject.source import short_path
from gradscope.doctor.subject.subject import Subject

__all__ = ["Failure", "ForwardBackwardRun", "run_subject", "weights_like"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception raised by the user's function. `phase` is "forward" or "backward"."""

    phase: str
    text: str
    where: str

    def __str__(self) -> str:
        return f"{self.phase} raises {self.text}"


@dataclass(frozen=True, slots=True)
class ForwardBackwardRun:
    """The results of one run. `gradients` has one entry for each leaf; None for a leaf without a gradient."""

    outputs: tuple[Tensor, ...] = ()
    weights: tuple[Tensor, ...] = ()
    """The grad_outputs, one for each output that has a graph."""
    gradients: tuple[Tensor | None, ...] = ()
    leaves: tuple[Tensor, ...] = ()
    calls: tuple[FunctionCall, ...] = ()
    failure: Failure | None = None
    is_connected: bool = True
    """False if no output has a graph, so backward cannot run."""


def run_subject(
    subject: Subject,
    *,
    needed: Sequence[bool] | None = None,
    prepare: Callable[[Tensor], Tensor] = torch.clone,
    weigh: Callable[[Tensor], Tensor] | None = None,
    is_instrumented: bool = False,
    create_graph: bool = False,
) -> ForwardBackwardRun:
    """Run a subject forward and backward once.

    needed: for each leaf, whether it requires a gradient; by default the subject's own setting.
    prepare: returns the tensor to pass for a leaf: a copy, or the same values in another layout.
    weigh: returns the grad_output for an output; random weights by default.
    is_instrumented: record the calls of the subject's Functions.

    An exception of the subject is returned as `failure`.
    """
    wanted = [leaf.is_needed for leaf in subject.leaves] if needed is None else list(needed)
    leaves = tuple(
        leaf.value.detach().clone().requires_grad_(w)
        for leaf, w in zip(subject.leaves, wanted, strict=True)
    )
    with instrumented(subject.functions if is_instrumented else ()) as calls:
        try:
            outputs = subject([prepare(leaf) for leaf in leaves])
        except Exception as error:  # noqa: BLE001 - any exception of the user's function is a finding
            return ForwardBackwardRun(
                leaves=leaves, calls=tuple(calls), failure=_failure("forward", error)
            )
        ends = [output for output in outputs if output.requires_grad]
        weights = tuple((weigh or weights_like)(end.detach()) for end in ends)
        if create_graph:
            weights = tuple(w.requires_grad_() for w in weights)
        none: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if not ends or not any(wanted):
            return ForwardBackwardRun(outputs, weights, none, leaves, tuple(calls), is_connected=False)
        try:
            gradients = _gradients(ends, leaves, weights, create_graph)
        except Exception as error:  # noqa: BLE001 - any exception of the user's function is a finding
            return ForwardBackwardRun(
                outputs, weights, none, leaves, tuple(calls), _failure("backward", error)
            )
    return ForwardBackwardRun(outputs, weights, gradients, leaves, tuple(calls))


def weights_like(output: Tensor, seed: int = 0) -> Tensor:
    """Return a dense grad_output for an output: magnitudes between 0.5 and 1.5, random signs."""
    generator = torch.Generator().manual_seed(seed)
    is_complex = output.is_complex()
    shape = (*output.shape, 2) if is_complex else output.shape
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    drawn *= torch.randint(0, 2, shape, generator=generator) * 2 - 1
    weights = torch.view_as_complex(drawn) if is_complex else drawn
    return weights.to(output.device, output.dtype)


def _gradients(
    ends: Sequence[Tensor],
    leaves: Sequence[Tensor],
    weights: Sequence[Tensor],
    create_graph: bool,
) -> tuple[Tensor | None, ...]:
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    found = iter(
        torch.autograd.grad(ends, asked, weights, create_graph=create_graph, allow_unused=True)
    )
    return tuple(next(found) if leaf.requires_grad else None for leaf in leaves)


def _failure(phase: str, error: Exception) -> Failure:
    return Failure(phase, f"{type(error).__name__}: {error}", _where(error))


def _where(error: BaseException) -> str:
    frames: list[Any] = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/gradscope/doctor/" not in f.filename]
    return f"{short_path(own[-1].filename)}:{own[-1].lineno}" if own else ""
