"""`run_subject`: one forward and one backward of a subject."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from gradscope.doctor.subject.instrument import FunctionCall, instrumented
from gradscope.doctor.subject.outside_state import seed_generators
from gradscope.doctor.subject.source import short_path
from gradscope.doctor.subject.subject import Subject, dense

__all__ = [
    "Failure",
    "ForwardBackwardRun",
    "run_backward",
    "run_forward",
    "run_subject",
    "weights_like",
]


_BACKWARD_SEED: Final = 10_000
"""Added to the seed for backward, so that it does not draw the numbers of forward again."""


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
    seed: int = 0
    has_sparse_gradients: bool = False
    """Whether a gradient was sparse; `gradients` holds its dense form."""


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
    with instrumented(subject.functions if is_instrumented else ()) as calls:
        run = run_forward(subject, needed=needed, prepare=prepare, weigh=weigh)
        if create_graph:
            run = replace(run, weights=tuple(w.requires_grad_() for w in run.weights))
        if run.is_connected and run.failure is None:
            run = run_backward(run, create_graph=create_graph)
    return replace(run, calls=tuple(calls))


def run_forward(
    subject: Subject,
    *,
    needed: Sequence[bool] | None = None,
    prepare: Callable[[Tensor], Tensor] = torch.clone,
    weigh: Callable[[Tensor], Tensor] | None = None,
) -> ForwardBackwardRun:
    """Run a subject forward once, as `run_subject` does, and return the run without gradients."""
    wanted = [leaf.is_needed for leaf in subject.leaves] if needed is None else needed
    leaves = tuple(
        leaf.value.detach().clone().requires_grad_(w)
        for leaf, w in zip(subject.leaves, wanted, strict=True)
    )
    try:
        outputs = subject([prepare(leaf) for leaf in leaves])
    except Exception as error:  # noqa: BLE001 - any exception of the user's function is a finding
        return ForwardBackwardRun(leaves=leaves, failure=_failure("forward", error), seed=subject.seed)
    ends = [output for output in outputs if output.requires_grad]
    weights = tuple((weigh or weights_like)(end.detach()) for end in ends)
    none: tuple[Tensor | None, ...] = (None,) * len(leaves)
    return ForwardBackwardRun(
        outputs, weights, none, leaves, is_connected=bool(ends) and any(wanted), seed=subject.seed
    )


def run_backward(
    run: ForwardBackwardRun, *, create_graph: bool = False, retain_graph: bool = False
) -> ForwardBackwardRun:
    """Run backward from the outputs of a run, and return the run with the gradients or the exception."""
    ends = [output for output in run.outputs if output.requires_grad]
    asked = [leaf for leaf in run.leaves if leaf.requires_grad]
    seed_generators(run.seed + _BACKWARD_SEED, run.leaves)
    try:
        found = iter(
            torch.autograd.grad(
                ends,
                asked,
                run.weights,
                retain_graph=retain_graph or create_graph,
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    except Exception as error:  # noqa: BLE001 - any exception of the user's function is a finding
        return replace(run, failure=_failure("backward", error))
    gradients = [next(found) if leaf.requires_grad else None for leaf in run.leaves]
    return replace(
        run,
        gradients=tuple(None if g is None else dense(g) for g in gradients),
        has_sparse_gradients=any(g is not None and g.layout is not torch.strided for g in gradients),
    )


def weights_like(output: Tensor, seed: int = 0) -> Tensor:
    """Return a dense grad_output for an output: magnitudes between 0.5 and 1.5, random signs."""
    generator = torch.Generator().manual_seed(seed)
    is_complex = output.is_complex()
    shape = (*output.shape, 2) if is_complex else output.shape
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    drawn *= torch.randint(0, 2, shape, generator=generator) * 2 - 1
    weights = torch.view_as_complex(drawn) if is_complex else drawn
    return weights.to(output.device, output.dtype)


def _failure(phase: str, error: Exception) -> Failure:
    return Failure(phase, f"{type(error).__name__}: {error}", _innermost_line_of_user(error))


def _innermost_line_of_user(error: BaseException) -> str:
    frames: list[Any] = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/gradscope/doctor/" not in f.filename]
    return f"{short_path(own[-1].filename)}:{own[-1].lineno}" if own else ""
