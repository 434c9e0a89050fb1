"""The record of one examination, passed through all diagnoses.

It is born in `examine`, filled as the steps go on, and dropped when the report is written. What several
diagnoses need is computed once, when the first of them asks.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.numerics.agreement import agree
from gradscope.doctor.numerics.finite_differences import Comparison, compare_elements
from gradscope.doctor.numerics.precision import Precision, precision_of
from gradscope.doctor.subject.run import Run, run
from gradscope.doctor.subject.source import Fact, read_function, where_defined
from gradscope.doctor.subject.subject import Subject, find_functions

__all__ = ["Examination"]

_ROUNDINGS: Final = 100


class Examination:
    """One subject, the runs made of it, and what was asked."""

    def __init__(self, subject: Subject, *, is_approximate: bool, is_second_order: bool) -> None:
        self.subject = subject
        self.is_approximate = is_approximate
        self.is_second_order = is_second_order
        self.blocked = ""
        """Why the numerical steps are skipped; "" while they are not."""
        self.notes: list[str] = []
        self.done: set[str] = set()
        """What was looked at, "second order" and "built-in": not behind a fault."""

    @cached_property
    def given(self) -> Run:
        """The first run: inputs as given, a dense gradient, watched from inside."""
        return run(self.subject, is_spied=True)

    @cached_property
    def again(self) -> Run:
        """The same once more."""
        return run(self.subject)

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """What the source of all Functions says."""
        return tuple(fact for function in self.subject.functions for fact in read_function(function))

    @cached_property
    def is_given_finite(self) -> bool:
        """Whether no input holds NaN or infinity."""
        return all(bool(leaf.value.isfinite().all()) for leaf in self.subject.leaves)

    @cached_property
    def are_gradients_repeatable(self) -> bool:
        """Whether two runs give the same gradients, but for the order of summation, as on a GPU."""
        return agree(self.given.gradients, self.again.gradients, roundings=_ROUNDINGS)

    @cached_property
    def are_outputs_repeatable(self) -> bool:
        """Whether two runs give the same outputs, as above."""
        return agree(self.given.outputs, self.again.outputs, roundings=_ROUNDINGS)

    @property
    def where(self) -> str:
        """Where the first Function is defined."""
        return where_defined(self.subject.functions[0]) if self.subject.functions else ""

    @cached_property
    def wide(self) -> Subject:
        """The subject in double; as given where double fails."""
        widened = self.subject.in_double()
        outcome = run(widened)
        if outcome.failure is None or self.given.failure is not None:
            return widened
        self.notes.append(f"examined as given, not in double: {outcome.failure}")
        return self.subject

    @cached_property
    def precision(self) -> Precision:
        """The precision that finite differences have to live with."""
        found = precision_of(self.wide)
        if not found.is_double:
            self.notes.append(
                f"works in {found.dtype} inside: compared with steps of {found.step:.1e} "
                f"and a tolerance of {found.rtol:.1e}"
            )
        return found

    @cached_property
    def wide_run(self) -> Run:
        """A run in double."""
        return run(self.wide)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Backward against finite differences, one for each leaf whose gradient is asked for."""
        return self.compare(self.wide, self.wide_run)

    def compare(self, subject: Subject, outcome: Run) -> tuple[Comparison, ...]:
        """Compare the gradients of a run with differences, leaf by leaf."""
        return tuple(
            self.compare_leaf(subject, outcome, number)
            for number, leaf in enumerate(subject.leaves)
            if leaf.is_needed and leaf.value.numel()
        )

    def compare_leaf(
        self, subject: Subject, outcome: Run, number: int, indices: Tensor | None = None
    ) -> Comparison:
        """Compare the gradient of one leaf, at some elements; one that is missing counts as zeros."""
        at = [leaf.value for leaf in subject.leaves]
        gradient = outcome.gradients[number]
        gradient = torch.zeros_like(at[number]) if gradient is None else gradient
        values = self.values_of(subject, outcome)
        return compare_elements(values, at, outcome.weights, number, gradient, self.precision, indices)

    def values_of(self, subject: Subject, outcome: Run) -> "_Forward":
        """Return forward as a plain function, of those outputs that have a gradient."""
        return _Forward(subject, [y.requires_grad for y in outcome.outputs])

    def look_inside(self) -> None:
        """Find the Function classes that a callable or a module runs, where none was given."""
        if not self.subject.functions:
            self.subject = replace(self.subject, functions=find_functions(run(self.subject).outputs))


class _Forward:
    """Forward without a graph: tensors in, the chosen outputs out."""

    def __init__(self, subject: Subject, is_chosen: Sequence[bool]) -> None:
        self._subject, self._is_chosen = subject, is_chosen

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            outputs = self._subject([t.clone() for t in tensors])
        return [y for y, chosen in zip(outputs, self._is_chosen, strict=True) if chosen]
