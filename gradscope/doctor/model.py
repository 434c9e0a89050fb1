"""The custom Functions that a model really uses, examined with what it calls them with.

A copy of the model runs twice on given inputs: once to find the Functions in the graph behind its
outputs, once to keep the arguments that they are called with. Nothing is guessed: shapes, dtypes,
values, and arguments that are no tensors, are those of the run.
"""

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils import _pytree

from gradscope.doctor.examine import examine
from gradscope.doctor.report.report import Report
from gradscope.doctor.subject.subject import find_functions, tensors_of
from gradscope.errors import UsageError

__all__ = ["examine_met", "examine_model"]

_KINDS_LIMIT: Final = 4
"""How many kinds of arguments a Function is examined with."""

_Kind: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class _RecordedCalls:
    """The calls of one Function: how many of each kind, and the arguments of the first of each."""

    function: type[Function]
    counts: dict[_Kind, int] = field(default_factory=dict)
    arguments: dict[_Kind, tuple[object, ...]] = field(default_factory=dict)

    def add(self, arguments: tuple[object, ...]) -> None:
        kind = tuple(_described(argument) for argument in arguments)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind not in self.arguments and len(self.arguments) < _KINDS_LIMIT:
            self.arguments[kind] = _copied(arguments)


def examine_model(
    model: nn.Module,
    inputs: Sequence[object],
    keywords: Mapping[str, object] | None = None,
    *,
    approximate: bool = False,
    second_order: bool = True,
) -> list[Report]:
    """Examine each custom Function in the graph behind the model's outputs, in the order of calls.

    A Function gets one report for each kind of arguments (shapes, dtypes, other values), of up to four.
    A copy of the model runs, in the mode in which the model is; the model, its gradients and buffers,
    the inputs, and the random states of torch, NumPy and Python stay as they are. Hooks of your own
    that the model carries run on the copy. torch's own Functions are left out. Empty where the model
    uses none.

    Raises UsageError where the model cannot be copied, is sharded, or cannot run on these inputs.
    """
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    with _random_states_kept(model), torch.enable_grad():
        twin = _copy_of(model)
        functions = [f for f in find_functions(_run(twin, inputs, keywords)) if _is_users(f)]
        with _meeting(functions) as met:
            _run(twin, inputs, keywords)
        del twin
        return [
            report
            for each in met
            for report in _examine_each(each, type(model).__name__, approximate, second_order)
        ]


def examine_met(
    model: nn.Module,
    step: int,
    inside: Sequence[type[Function]],
    outside: Sequence[type[Function]],
    arguments: Callable[[], tuple[Sequence[object], Mapping[str, object]]],
) -> list[Report]:
    """Examine what was met in one step of a training: Functions `inside` of the model, on its inputs.

    Of those `outside`, which only the loss uses, no arguments are known: they get a report without
    steps that says so. Raises UsageError as `examine_model` does, and what `arguments()` raises.
    """
    reports = examine_model(model, *arguments()) if inside else []
    said = f"on what {type(model).__name__} was called with in step {step}"
    reports = [replace(report, notes=(said, *report.notes)) for report in reports]
    why = (
        f"not examined: met in step {step} behind what was logged, outside of the model, where its "
        "arguments are not known; pass them: gradscope.examine({name}, ...)"
    )
    return reports + [Report(f.__name__, (), (), (), (why.format(name=f.__name__),)) for f in outside]


def _examine_each(
    met: _RecordedCalls, model: str, approximate: bool, second_order: bool
) -> Iterator[Report]:
    left_out = len(met.counts) - len(met.arguments)
    for kind, arguments in met.arguments.items():
        name = met.function.__name__
        shown = name if len(met.counts) == 1 else f"{name} on {', '.join(kind)}"
        notes = [f"met {met.counts[kind]} times in one forward of {model}, with {', '.join(kind)}"]
        if left_out:
            notes.append(f"{left_out} more kinds of arguments were met, and not examined")
        if not any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
            yield _not_examined(shown, notes)
            continue
        report = examine(
            met.function, *arguments, approximate=approximate, second_order=second_order, name=shown
        )
        yield replace(report, notes=(*notes, *report.notes))


def _not_examined(name: str, notes: list[str]) -> Report:
    why = "not examined: no argument of this kind that is a tensor requires a gradient"
    return Report(name, (), (), (), (*notes, why))


def _is_users(function: type[Function]) -> bool:
    return function.__module__.partition(".")[0] != "torch"


def _copy_of(model: nn.Module) -> nn.Module:
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        raise UsageError(
            f"{type(model).__name__} is sharded over several processes, and one of them cannot run it "
            "alone; examine its Functions with gradscope.examine on example inputs"
        )
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__} cannot be copied, and is not run itself lest it change: "
            f"{type(error).__name__}: {error}; examine its Functions with gradscope.examine on example "
            "inputs"
        ) from error


def _run(
    model: nn.Module, inputs: Sequence[object], keywords: Mapping[str, object] | None
) -> tuple[Tensor, ...]:
    try:
        return tensors_of(model(*_copied(inputs), **_copied(dict(keywords or {}))))
    except Exception as error:
        given = ", ".join(_described(value) for value in inputs) or "nothing"
        raise UsageError(
            f"{type(model).__name__} cannot run on {given}: {type(error).__name__}: {error}; pass what "
            "the training passes to the model"
        ) from error


@contextmanager
def _meeting(functions: Sequence[type[Function]]) -> Iterator[list[_RecordedCalls]]:
    """Note what some Functions are called with, in the order of first calls, while the block runs."""
    met: dict[type[Function], _RecordedCalls] = {}
    originals = [(function, vars(function).get("forward")) for function in functions]
    wrapped = [(function, _noting(function, met)) for function in functions]
    try:
        for function, method in wrapped:
            function.forward = staticmethod(method)  # type: ignore[method-assign]  # given back below
        found: list[_RecordedCalls] = []
        yield found
        found.extend(met.values())
    finally:
        for function, original in originals:
            if original is None:
                del function.forward
            else:
                function.forward = original  # type: ignore[method-assign]  # as it was


def _noting(function: type[Function], met: dict[type[Function], _RecordedCalls]) -> Callable[..., Any]:
    forward: Any = function.forward  # Any: the user's method has whatever signature it has
    skipped = int(function.setup_context is Function.setup_context)  # ctx comes first

    def noted(*arguments: Any) -> Any:
        met.setdefault(function, _RecordedCalls(function)).add(arguments[skipped:])
        return forward(*arguments)

    return noted


@contextmanager
def _random_states_kept(model: nn.Module) -> Iterator[None]:
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state models draw from
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - as above


def _copied(values: Any) -> Any:  # Any: any nest of values, and the same nest again
    return _pytree.tree_map_only(Tensor, _copy_of_tensor, values)


def _copy_of_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype}".removeprefix("torch.") + f"{list(value.shape)}"
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)
    return type(value).__name__
