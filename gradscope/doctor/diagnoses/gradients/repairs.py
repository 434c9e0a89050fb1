"""Repairs that are tried on a Function: if its gradient is right with one of them, the fault and its cure are known.

A repair wraps one method of the Function for a run. Each trial costs one run and needs no Jacobian, so it is possible
for tensors of any size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.instrument import (
    FunctionCall,
    backward_name,
    context_name,
    replaced_method,
)
from gradscope.doctor.subject.op_counter import ResultMode
from gradscope.doctor.subject.outside_state import seed_generators
from gradscope.doctor.subject.run import run_backward, run_forward, run_subject

__all__ = [
    "Repair",
    "conjugations",
    "exchanges",
    "find_right_repair",
    "find_running_repair",
    "is_gradient_right",
    "makes_backward_repeatable",
    "redraws",
    "repaired",
    "repeatable_backwards",
    "returning_tuples",
    "transpositions",
]

_Method: TypeAlias = Callable[..., Any]
_Values: TypeAlias = Sequence[Any]
_TRANSFORMS_LIMIT: Final = 8


@dataclass(frozen=True, slots=True)
class Repair:
    """A wrapper of one method of a Function. what, done: what it changes and how, as in "the saved w", "transposed"."""

    function: type[Function]
    method: str
    what: str
    done: str
    wrap: Callable[[_Method], _Method]


@contextmanager
def repaired(repairs: Iterable[Repair]) -> Iterator[None]:
    """Apply the repairs while the block runs."""
    with ExitStack() as stack:
        for repair in repairs:
            method = repair.wrap(getattr(repair.function, repair.method))
            stack.enter_context(replaced_method(repair.function, repair.method, method))
        yield


def find_right_repair(
    exam: Examination, number: int, repairs: Iterable[Repair], *, at_most: int = 1
) -> str:
    """Return a clause on up to `at_most` repairs that make a leaf's gradient right; "" if there are none."""
    candidates = list(repairs)
    for size in range(1, at_most + 1):
        for chosen in combinations(candidates, size):
            if is_gradient_right(exam, number, chosen):
                what = " and ".join(repair.what for repair in chosen)
                return f"{what} {'is' if size == 1 else 'are'} {chosen[0].done}"
    return ""


def is_gradient_right(exam: Examination, number: int, repairs: Sequence[Repair] = ()) -> bool:
    """Return whether the gradient of a leaf is the derivative, with these repairs."""
    only = [i == number for i in range(len(exam.in_double.leaves))]
    with repaired(repairs):
        outcome = run_subject(exam.in_double, needed=only)
    if outcome.failure is not None or outcome.gradients[number] is None:
        return False
    comparison = exam.compare_leaf(exam.in_double, outcome, number)
    return comparison.is_right and bool((comparison.numeric.abs() > comparison.tolerance).any())


def transpositions(exam: Examination) -> Iterator[Repair]:
    """Yield transpositions of each matrix that backward reads or returns."""
    yield from _changed_tensors(exam, lambda t: t.dim() >= 2, lambda t: t.mT, "transposed")


def conjugations(exam: Examination, number: int) -> Iterator[Repair]:  # noqa: ARG001 - as for exchanges
    """Yield conjugations of each complex tensor that backward reads, returns or computes by a Fourier transform."""
    yield from _changed_tensors(exam, torch.is_complex, torch.conj, "conjugated")
    for function in exam.subject.functions:
        if any(isinstance(y, Tensor) and y.is_complex() for y in _outputs_of(exam, function)):
            yield Repair(
                function,
                backward_name(function),
                "each factor",
                "conjugated",
                _conjugated_both,
            )
        name = backward_name(function)
        for index in range(min(_count_transforms(exam, function), _TRANSFORMS_LIMIT)):
            what = f"the result of Fourier transform {index + 1}"
            wrap = _in_mode(partial(_Transforms, index))
            yield Repair(function, name, what, "conjugated", wrap)


def _count_transforms(exam: Examination, function: type[Function]) -> int:
    transforms = _Transforms()
    with repaired([Repair(function, backward_name(function), "", "", _in_mode(lambda: transforms))]):
        run_subject(exam.in_double)
    return transforms.count


def _outputs_of(exam: Examination, function: type[Function]) -> Iterator[object]:
    for call in exam.first_run.calls:
        if call.function is function:
            yield from call.outputs


def _changed_tensors(
    exam: Examination,
    is_wanted: Callable[[Tensor], bool],
    change: Callable[[Tensor], Tensor],
    done: str,
) -> Iterator[Repair]:
    """Yield a change of each wanted tensor that backward reads or returns once."""

    def change_if_wanted(value: Any) -> Any:  # Any: the user's values
        return change(value) if isinstance(value, Tensor) and is_wanted(value) else value

    found: dict[tuple[type[Function], str], Repair] = {}
    for call in exam.first_run.calls:
        for name, wrap in _tensors_of_backward(exam, call, is_wanted, change_if_wanted):
            key = call.function, name
            repair = Repair(call.function, backward_name(call.function), name, done, wrap)
            found.setdefault(key, repair)
    yield from found.values()


def _tensors_of_backward(
    exam: Examination,
    call: FunctionCall,
    is_wanted: Callable[[Tensor], bool],
    change: Callable[[Any], Any],
) -> Iterator[tuple[str, Callable[[_Method], _Method]]]:
    names = _argument_names(exam)

    def wanted(values: Iterable[object]) -> list[int]:
        return [i for i, v in enumerate(values) if isinstance(v, Tensor) and is_wanted(v)]

    for i in wanted(call.outputs):
        yield f"grad_output {i}" if i else "grad_output", _on_gradients(_changing_element(i, change))
    for i in wanted(tensor for tensor, _ in call.saved):
        position = call.saved[i][1]
        shown = names.get(position, "") if position is not None else ""
        name = f"the saved {shown}" if shown else f"saved tensor {i}"
        yield name, _on_context("saved_tensors", _changing_element(i, change))
    for held in call.held:
        yield f"ctx.{held.attribute}", _on_context(held.attribute, change)
    for i in wanted(call.inputs):
        name = f"the gradient returned for {names.get(i, f'argument {i}')}"
        yield name, _on_returned(_changing_element(i, change))


def exchanges(exam: Examination, number: int) -> Iterator[Repair]:
    """Yield exchanges of two gradients that backward returns; of a leaf, only those with its gradient."""
    own = exam.subject.leaves[number].position if exam.subject.is_direct else None
    names = _argument_names(exam)
    for call in {call.function: call for call in exam.first_run.calls}.values():
        places = [i for i, x in enumerate(call.inputs) if isinstance(x, Tensor)]
        for i, j in combinations(places, 2):
            if own in (None, i, j):
                first, second = (names.get(k, f"argument {k}") for k in (i, j))
                what = f"the order of the gradients of {first} and {second}"
                wrap = _on_returned(_exchanging_elements(i, j))
                yield Repair(call.function, backward_name(call.function), what, "reversed", wrap)


def redraws(exam: Examination, number: int) -> Iterator[Repair]:  # noqa: ARG001 - as for exchanges
    """Yield, for each Function, a backward that begins with the random state with which forward began."""

    def wrap(backward: _Method) -> _Method:
        def changed(*arguments: Any) -> Any:  # Any: the user's values
            seed_generators(exam.in_double.seed, [a for a in arguments if isinstance(a, Tensor)])
            return backward(*arguments)

        return changed

    for function in exam.subject.functions:
        done = "set to that of forward"
        yield Repair(function, backward_name(function), "the random state", done, wrap)


def _argument_names(exam: Examination) -> dict[int, str]:
    """Return the names of forward's arguments by position; none if the subject calls the Function by itself."""
    leaves = exam.subject.leaves if exam.subject.is_direct else ()
    return {leaf.position: leaf.name for leaf in leaves}


def find_running_repair(exam: Examination) -> tuple[str, str] | None:
    """Return the cause and the fix of an exception in backward, if one of some repairs makes it run."""
    for function in exam.subject.functions:
        for cause, fix, method, wrap in _CURES_OF_EXCEPTIONS:
            name = context_name(function) if method == "forward" else backward_name(function)
            with repaired([Repair(function, name, "", "", wrap)]):
                if run_subject(exam.subject).failure is None:
                    return cause, f"{fix} (tried: backward then runs)"
    return None


def repeatable_backwards() -> Iterator[tuple[str, str, Callable[[_Method], _Method]]]:
    """Yield causes of a backward that runs only once, their fixes, and the wrapper that tries each fix."""
    yield (
        "torch.autograd.grad or .backward() inside backward frees a graph that forward has made",
        "pass retain_graph=True in backward, or make that graph in backward",
        _retaining_graphs,
    )
    yield (
        "backward deletes or replaces an attribute of ctx that it reads",
        "do not change ctx in backward",
        _restoring_context,
    )


def makes_backward_repeatable(exam: Examination, wrap: Callable[[_Method], _Method]) -> bool:
    """Return whether a second backward runs if `wrap` is applied to backward of all Functions."""
    repairs = [Repair(f, backward_name(f), "", "", wrap) for f in exam.subject.functions]
    with repaired(repairs):
        run = run_forward(exam.subject)
        return run_backward(run_backward(run, retain_graph=True)).failure is None


def returning_tuples(exam: Examination) -> list[Repair]:
    """Return the repairs that make forward return a tuple where it returns a list or dict."""
    return [Repair(f, "forward", "", "", _returning_tuple) for f in exam.subject.functions]


def _changing_element(index: int, change: Callable[[Any], Any]) -> Callable[[_Values], _Values]:
    return lambda values: [change(v) if i == index else v for i, v in enumerate(values)]


def _exchanging_elements(first: int, second: int) -> Callable[[_Values], _Values]:
    def exchange(values: _Values) -> _Values:
        order = list(range(len(values)))
        order[first], order[second] = second, first
        return [values[i] for i in order]

    return exchange


def _on_gradients(change: Callable[[_Values], _Values]) -> Callable[[_Method], _Method]:
    return lambda backward: lambda ctx, *gradients: backward(ctx, *change(gradients))


def _on_returned(change: Callable[[_Values], _Values]) -> Callable[[_Method], _Method]:
    def wrap(backward: _Method) -> _Method:
        def changed(*arguments: Any) -> Any:  # Any: the user's values
            result = backward(*arguments)
            return tuple(change(result if isinstance(result, tuple) else (result,)))

        return changed

    return wrap


def _on_context(name: str, change: Callable[[Any], Any]) -> Callable[[_Method], _Method]:
    return lambda backward: lambda ctx, *gradients: backward(_Context(ctx, name, change), *gradients)


class _Context:
    """A ctx with one attribute changed when it is read."""

    def __init__(self, ctx: Any, name: str, change: Callable[[Any], Any]) -> None:
        self.__dict__.update(_ctx=ctx, _name=name, _change=change)

    def __getattr__(self, name: str) -> Any:  # Any: any attribute of ctx
        value = getattr(self._ctx, name)
        return self._change(value) if name == self._name else value

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._ctx, name, value)


def _conjugated_both(backward: _Method) -> _Method:
    def conjugate(values: _Values) -> _Values:
        return [v.conj() if isinstance(v, Tensor) else v for v in values]

    return _on_returned(conjugate)(_on_gradients(conjugate)(backward))


def _in_mode(make_mode: Callable[[], ResultMode]) -> Callable[[_Method], _Method]:
    def wrap(backward: _Method) -> _Method:
        def changed(*arguments: Any) -> Any:  # Any: the user's values
            with make_mode():
                return backward(*arguments)

        return changed

    return wrap


class _Transforms(ResultMode):
    """Counts Fourier transforms with a complex result, and conjugates the result of one of them."""

    def __init__(self, conjugated: int | None = None) -> None:
        super().__init__()
        self.count = 0
        self._conjugated = conjugated

    def change(self, name: str, args: tuple[Any, ...], result: Any) -> Any:  # noqa: ARG002  # Any: torch's protocol
        if name.startswith("fft_") and result.is_complex():
            self.count += 1
            return result.conj() if self.count - 1 == self._conjugated else result
        return result


def _element(index: int) -> Callable[[Sequence[Any]], Any]:  # Any: one saved tensor
    """Return a function that returns one of the saved tensors."""
    return lambda values: values[min(index, len(values) - 1)]


def _with_grad_mode(backward: _Method) -> _Method:
    return torch.enable_grad()(backward)


def _saving_all(forward: _Method) -> _Method:
    """Let each call of save_for_backward add to the earlier ones."""

    def adding(ctx: Any, *arguments: Any) -> Any:  # Any: the user's method
        kept: list[Any] = []
        save = ctx.save_for_backward

        def save_more(*tensors: Any) -> None:
            kept.extend(tensors)
            save(*kept)

        ctx.save_for_backward = save_more
        try:
            return forward(ctx, *arguments)
        finally:
            del ctx.save_for_backward

    return adding


def _retaining_graphs(backward: _Method) -> _Method:
    def retaining(*arguments: Any) -> Any:  # Any: the user's method
        grad, start = torch.autograd.grad, torch.autograd.backward
        torch.autograd.grad = _with_retained_graph(grad, position=3)
        torch.autograd.backward = _with_retained_graph(start, position=2)
        try:
            return backward(*arguments)
        finally:
            torch.autograd.grad, torch.autograd.backward = grad, start

    return retaining


def _with_retained_graph(call: _Method, position: int) -> _Method:
    """Return `call` with retain_graph=True, also if it is passed by position."""

    def retaining(*arguments: Any, **options: Any) -> Any:  # Any: torch's arguments
        if len(arguments) > position:
            return call(*arguments[:position], True, *arguments[position + 1 :], **options)
        return call(*arguments, **options | {"retain_graph": True})

    return retaining


def _restoring_context(backward: _Method) -> _Method:
    def restoring(ctx: Any, *gradients: Any) -> Any:  # Any: the user's method
        attributes = {
            name: value.copy() if isinstance(value, list | dict | set) else value
            for name, value in vars(ctx).items()
        }
        try:
            return backward(ctx, *gradients)
        finally:
            vars(ctx).clear()
            vars(ctx).update(attributes)

    return restoring


def _returning_tuple(forward: _Method) -> _Method:
    def flattened(*arguments: Any) -> Any:  # Any: the user's method
        result = forward(*arguments)
        return result if isinstance(result, Tensor) else tuple(torch.utils._pytree.tree_leaves(result))  # noqa: SLF001 - torch's own helper

    return flattened


_CURES_OF_EXCEPTIONS: Final = (
    (
        "save_for_backward is called twice, and the second call replaces the tensors of the first",
        "call it once with all tensors: ctx.save_for_backward(a, b)",
        "forward",
        _saving_all,
    ),
    *(
        (
            "ctx.saved_tensors is a tuple, also if it holds one tensor",
            "unpack it: (y,) = ctx.saved_tensors, or a, b = ctx.saved_tensors",
            "backward",
            _on_context("saved_tensors", _element(index)),
        )
        for index in range(3)
    ),
    (
        "backward runs without a graph, so torch.autograd.grad and .backward() inside it find none",
        "make the inner graph under torch.enable_grad() in backward",
        "backward",
        _with_grad_mode,
    ),
)
"""Cause, fix, the method that is wrapped, and the wrapper."""
