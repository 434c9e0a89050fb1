"""`Examination`: the state of one examination. Diagnoses read it and share results through it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.numerics.agreement import agree
from gradscope.doctor.numerics.finite_differences import Comparison, compare_elements
from gradscope.doctor.numerics.precision import Precision, precision_of
from gradscope.doctor.subject.run import ForwardBackwardRun, run_subject
from gradscope.doctor.subject.source import SourceFact, read_function, where_defined
from gradscope.doctor.subject.subject import Subject, functions_named_in
from gradscope.findings import Finding
from gradscope.hooks import find_functions

__all__ = ["Examination"]

_ROUNDINGS: Final = 100


class Examination:
    """One subject, its runs and the findings so far. Each call of `examine` creates one.

    A run or comparison that several diagnoses need is a cached property, computed on first use.
    """

    def __init__(self, subject: Subject, *, is_approximate: bool, is_second_order: bool) -> None:
        self.subject = subject
        self.is_approximate = is_approximate
        self.is_second_order = is_second_order
        self.skip_reason = ""
        """Why numerical steps are skipped; "" if they are not."""
        self.is_backward_repeatable = True
        """Whether backward can run twice through one graph."""
        self.findings: list[Finding] = []
        """The findings of the finished diagnoses, in order."""
        self.notes: list[str] = []
        self.covered: set[str] = set()
        """The optional parts that were examined: "second order" and "built-in"."""
        self.gradcheck_results: dict[str, object] = {}
        """Results and times of gradcheck and gradgradcheck, by name, after they have run."""

    def has_found(self, *codes: str) -> bool:
        """Return whether a finding so far has one of the codes."""
        return any(finding.code in codes for finding in self.findings)

    @property
    def has_errors(self) -> bool:
        """Whether a finding so far is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    @cached_property
    def first_run(self) -> ForwardBackwardRun:
        """The first run: original inputs, a dense grad_output, instrumented Functions."""
        return run_subject(self.subject, is_instrumented=True)

    @cached_property
    def second_run(self) -> ForwardBackwardRun:
        """A second run on the same inputs, not instrumented."""
        return run_subject(self.subject)

    @cached_property
    def random_parts(self) -> tuple[str, ...]:
        """What depends on the seed of the random generators: "the outputs", "the gradients"."""
        other = run_subject(replace(self.subject, seed=1))
        pairs = (
            ("the outputs", self.second_run.outputs, other.outputs),
            ("the gradients", self.second_run.gradients, other.gradients),
        )
        return tuple(name for name, a, b in pairs if not agree(a, b, roundings=_ROUNDINGS))

    @property
    def has_failed_in_forward(self) -> bool:
        """Whether forward raised in the first run."""
        failure = self.first_run.failure
        return failure is not None and failure.phase == "forward"

    @cached_property
    def facts(self) -> tuple[SourceFact, ...]:
        """The facts read from the source of all Functions."""
        return tuple(fact for function in self.subject.functions for fact in read_function(function))

    @cached_property
    def are_inputs_finite(self) -> bool:
        """Whether no input contains NaN or infinities."""
        return all(bool(leaf.value.isfinite().all()) for leaf in self.subject.leaves)

    @cached_property
    def are_gradients_reproducible(self) -> bool:
        """Whether two runs give the same gradients, up to the order of summation on a GPU."""
        return agree(self.first_run.gradients, self.second_run.gradients, roundings=_ROUNDINGS)

    @cached_property
    def are_outputs_reproducible(self) -> bool:
        """Whether two runs give the same outputs, up to the order of summation on a GPU."""
        return agree(self.first_run.outputs, self.second_run.outputs, roundings=_ROUNDINGS)

    @property
    def location(self) -> str:
        """File and line of the first Function; "" if there is none."""
        return where_defined(self.subject.functions[0]) if self.subject.functions else ""

    @cached_property
    def in_double(self) -> Subject:
        """The subject in double precision, or the original subject if it raises in double."""
        widened = self.subject.in_double()
        outcome = run_subject(widened)
        if outcome.failure is None or self.first_run.failure is not None:
            return widened
        self.notes.append(f"examined as given, not in double: {outcome.failure}")
        return self.subject

    @cached_property
    def precision(self) -> Precision:
        """The precision that finite differences can reach."""
        found = precision_of(self.in_double)
        if not found.is_double:
            self.notes.append(
                f"works in {found.dtype} inside: compared with steps of {found.step:.1e} "
                f"and a tolerance of {found.rtol:.1e}"
            )
        return found

    @cached_property
    def double_run(self) -> ForwardBackwardRun:
        """A run in double precision."""
        return run_subject(self.in_double)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Comparisons of backward with finite differences, in double, one for each leaf that needs a gradient."""
        return self.compare(self.in_double, self.double_run)

    @property
    def is_gradient_right(self) -> bool:
        """Whether all gradients agree with finite differences."""
        return all(comparison.is_right for comparison in self.comparisons)

    def compare(self, subject: Subject, outcome: ForwardBackwardRun) -> tuple[Comparison, ...]:
        """Compare the gradients of a run with finite differences, for each leaf."""
        return tuple(
            self.compare_leaf(subject, outcome, number)
            for number, leaf in enumerate(subject.leaves)
            if leaf.is_needed and leaf.value.numel()
        )

    def compare_leaf(
        self,
        subject: Subject,
        outcome: ForwardBackwardRun,
        number: int,
        indices: Tensor | None = None,
    ) -> Comparison:
        """Compare the gradient of one leaf with finite differences.

        indices: the flat indices of the elements to compare; by default, all elements or a sample.

        A gradient that is None counts as zeros.
        """
        at = [leaf.value for leaf in subject.leaves]
        gradient = outcome.gradients[number]
        gradient = torch.zeros_like(at[number]) if gradient is None else gradient
        values = self.values_of(subject, outcome)
        return compare_elements(values, at, outcome.weights, number, gradient, self.precision, indices)

    def values_of(self, subject: Subject, outcome: ForwardBackwardRun) -> "_Forward":
        """Return forward as a plain function of the leaves, which returns the outputs that have a gradient."""
        return _Forward(subject, [y.requires_grad for y in outcome.outputs])

    def find_inner_functions(self) -> None:
        """Find the Function classes that a callable or a module runs, if none were given."""
        if not self.subject.functions:
            found = find_functions(run_subject(self.subject).outputs)
            modules = self.subject.module.modules() if self.subject.module is not None else ()
            named = [f for module in modules for f in functions_named_in(type(module).forward)]
            self.subject = replace(self.subject, functions=found or tuple(dict.fromkeys(named)))


class _Forward:
    """Forward without a graph: takes the tensors of the leaves, and returns the chosen outputs."""

    def __init__(self, subject: Subject, is_chosen: Sequence[bool]) -> None:
        self._subject, self._is_chosen = subject, is_chosen

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            outputs = self._subject([t.clone() for t in tensors])
        return [y for y, chosen in zip(outputs, self._is_chosen, strict=True) if chosen]
