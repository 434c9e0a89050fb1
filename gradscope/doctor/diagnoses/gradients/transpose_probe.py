"""Re-runs backward with one matrix transposed; if that fixes the gradient, a transpose was missing.

The matrix is a grad_output, a saved tensor, a tensor on ctx, or a returned gradient. Each trial costs one
backward and needs no Jacobian, so it is possible for any size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import Tensor
from torch.autograd import Function

from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.instrument import FunctionCall, backward_name
from gradscope.doctor.subject.run import run_subject

__all__ = ["MatrixSite", "transposed_at"]


@dataclass(frozen=True, slots=True)
class MatrixSite:
    """One matrix that backward uses or returns: its kind, and its index or attribute."""

    function: type[Function]
    kind: str
    """ "grad_output", "saved", "attribute" or "returned"."""
    key: int | str
    name: str

    def __str__(self) -> str:
        return self.name


def transposed_at(exam: Examination, number: int, *, at_most: int = 1) -> tuple[MatrixSite, ...]:
    """Return up to `at_most` matrices whose transposition makes a leaf's gradient right; empty if there are none."""
    sites = list(dict.fromkeys(s for call in exam.first_run.calls for s in _sites(exam, call)))
    chosen = (c for size in range(1, at_most + 1) for c in combinations(sites, size))
    return next((sites for sites in chosen if _is_right(exam, number, sites)), ())


def _is_right(exam: Examination, number: int, sites: Sequence[MatrixSite]) -> bool:
    only = [i == number for i in range(len(exam.in_double.leaves))]
    with _transposing(sites):
        outcome = run_subject(exam.in_double, needed=only)
    if outcome.failure is not None or outcome.gradients[number] is None:
        return False
    comparison = exam.compare_leaf(exam.in_double, outcome, number)
    return comparison.is_right and bool((comparison.numeric.abs() > comparison.tolerance).any())


def _sites(exam: Examination, call: FunctionCall) -> Iterator[MatrixSite]:
    names = {leaf.position: leaf.name for leaf in exam.subject.leaves}
    function = call.function
    for i, output in enumerate(call.outputs):
        if _is_matrix(output):
            yield MatrixSite(
                function, "grad_output", i, "grad_output" if i == 0 else f"grad_output {i}"
            )
    for i, (tensor, position) in enumerate(call.saved):
        if _is_matrix(tensor):
            shown = names.get(position, "") if position is not None else ""
            yield MatrixSite(
                function, "saved", i, f"the saved {shown}" if shown else f"saved tensor {i}"
            )
    for held in call.held:
        yield MatrixSite(function, "attribute", held.attribute, f"ctx.{held.attribute}")
    for i, argument in enumerate(call.inputs):
        if _is_matrix(argument):
            yield MatrixSite(
                function, "returned", i, f"the gradient returned for {names.get(i, f'argument {i}')}"
            )


def _is_matrix(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2


@contextmanager
def _transposing(sites: Sequence[MatrixSite]) -> Iterator[None]:
    """Transpose these matrices for backward while the block runs."""
    functions = list(dict.fromkeys(site.function for site in sites))
    originals = [(f, backward_name(f), vars(f).get(backward_name(f))) for f in functions]
    try:
        for function, name, _ in originals:
            own = [site for site in sites if site.function is function]
            setattr(function, name, staticmethod(_with_transposed(getattr(function, name), own)))
        yield
    finally:
        for function, name, original in originals:
            if original is None:
                delattr(function, name)
            else:
                setattr(function, name, original)


def _with_transposed(backward: Any, sites: Sequence[MatrixSite]) -> Any:  # Any: the user's method
    keys = {kind: {site.key for site in sites if site.kind == kind} for kind in _KINDS}

    def transposed(ctx: Any, *gradients: Any) -> Any:  # Any: the user's method
        given = _transpose_some(gradients, keys["grad_output"])
        result = backward(_Context(ctx, keys["saved"], keys["attribute"]), *given)
        returned = result if isinstance(result, tuple) else (result,)
        return tuple(_transpose_some(returned, keys["returned"]))

    return transposed


_KINDS = ("grad_output", "saved", "attribute", "returned")


class _Context:
    """A ctx that returns some of its tensors transposed."""

    def __init__(self, ctx: Any, saved: set[int | str], attributes: set[int | str]) -> None:
        self.__dict__.update(_ctx=ctx, _saved=saved, _attributes=attributes)

    def __getattr__(self, name: str) -> Any:  # Any: any attribute of ctx
        value = getattr(self._ctx, name)
        if name == "saved_tensors":
            return tuple(_transpose_some(value, self._saved))
        return _transpose(value) if name in self._attributes else value

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._ctx, name, value)


def _transpose_some(
    values: Sequence[Any], chosen: set[int | str]
) -> list[Any]:  # Any: the user's values
    return [_transpose(v) if i in chosen else v for i, v in enumerate(values)]


def _transpose(value: Any) -> Any:  # Any: the user's method
    return value.mT if _is_matrix(value) else value
