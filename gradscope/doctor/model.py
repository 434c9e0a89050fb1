"""`examine_model`: examines the custom Functions that a model uses, with the arguments of the model's own calls.

A copy of the model runs twice on given inputs: first to find the Functions in the graph behind its outputs, then to
record their arguments. So shapes, dtypes, values and arguments that are not tensors are those of a real run.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils import _pytree

from gradscope.doctor.examine import examine
from gradscope.doctor.report.report import Report
from gradscope.doctor.subject.instrument import replaced_method
from gradscope.doctor.subject.outside_state import random_states_restored
from gradscope.doctor.subject.subject import tensors_of
from gradscope.errors import UsageError
from gradscope.hooks import find_functions

__all__ = ["examine_model", "examine_step_functions"]

_KINDS_LIMIT: Final = 4
"""Maximum number of kinds of arguments with which one Function is examined."""

_Kind: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class _RecordedCalls:
    """The calls of one Function by kind of arguments: the number of calls, and the arguments of the first call."""

    function: type[Function]
    counts: dict[_Kind, int] = field(default_factory=dict)
    arguments: dict[_Kind, tuple[object, ...]] = field(default_factory=dict)

    def add(self, arguments: tuple[object, ...]) -> None:
        kind = tuple(_describe_argument(argument) for argument in arguments)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind not in self.arguments and len(self.arguments) < _KINDS_LIMIT:
            self.arguments[kind] = _copy_values(arguments)


def examine_model(
    model: nn.Module,
    inputs: Sequence[object],
    keywords: Mapping[str, object] | None = None,
    *,
    approximate: bool = False,
    second_order: bool = True,
) -> list[Report]:
    """Examine each custom Function in the graph behind the model's outputs, in the order of calls.

    inputs, keywords: the arguments of the model.
    approximate, second_order: as in `examine`.

    A Function gets one report for each kind of arguments (shapes, dtypes, other values), up to four. PyTorch's own
    Functions are not examined. The run uses a copy of the model in the model's training or evaluation
    mode, including the model's forward hooks. The model, its gradients and buffers, the inputs, and the
    random states of torch, NumPy and Python do not change.

    Raises UsageError if the model cannot be copied, is sharded, or cannot run on these inputs.
    """
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    with random_states_restored(model.parameters()), torch.enable_grad():
        twin = _copy_of(model)
        functions = [f for f in find_functions(_run_model(twin, inputs, keywords)) if _is_users(f)]
        with _recording_calls(functions) as recorded:
            _run_model(twin, inputs, keywords)
        del twin
        return [
            report
            for calls in recorded
            for report in _examine_each(calls, type(model).__name__, approximate, second_order)
        ]


def examine_step_functions(
    model: nn.Module,
    step: int,
    inside: Sequence[type[Function]],
    outside: Sequence[type[Function]],
    arguments: Callable[[], tuple[Sequence[object], Mapping[str, object]]],
) -> list[Report]:
    """Examine the Functions of one training step.

    inside: Functions that the model uses; they are examined on the model's `arguments()`.
    outside: Functions that only the loss uses. Their arguments are not known, so each gets a report
        in which no check was run, with this reason.

    Raises UsageError like `examine_model`, and any exception of `arguments()`.
    """
    reports = examine_model(model, *arguments()) if inside else []
    note = f"with the arguments of {type(model).__name__} in step {step}"
    reports = [replace(report, notes=(note, *report.notes)) for report in reports]
    why = (
        f"not examined: in step {step} only the loss used it, outside of the model, so its arguments are not "
        "known; pass them: gradscope.examine({name}, ...)"
    )
    return reports + [Report.of(f.__name__, notes=(why.format(name=f.__name__),)) for f in outside]


def _examine_each(
    calls: _RecordedCalls, model: str, approximate: bool, second_order: bool
) -> Iterator[Report]:
    left_out = len(calls.counts) - len(calls.arguments)
    for kind, arguments in calls.arguments.items():
        name = calls.function.__name__
        shown = name if len(calls.counts) == 1 else f"{name} on {', '.join(kind)}"
        notes = [f"called {calls.counts[kind]} times in one forward of {model}, with {', '.join(kind)}"]
        if left_out:
            notes.append(f"not examined: calls with {left_out} more kinds of arguments")
        if not any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
            yield _not_examined(shown, notes)
            continue
        report = examine(
            calls.function, *arguments, approximate=approximate, second_order=second_order, name=shown
        )
        yield replace(report, notes=(*notes, *report.notes))


def _not_examined(name: str, notes: list[str]) -> Report:
    why = "not examined: no tensor among the arguments requires a gradient"
    return Report.of(name, notes=(*notes, why))


def _is_users(function: type[Function]) -> bool:
    return function.__module__.partition(".")[0] != "torch"


def _copy_of(model: nn.Module) -> nn.Module:
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        raise UsageError(
            f"{type(model).__name__} is sharded over several processes, and one process cannot run it "
            "alone; examine its Functions with gradscope.examine on example inputs"
        )
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__} cannot be copied, and the doctor runs only a copy of a model: "
            f"{type(error).__name__}: {error}; examine its Functions with gradscope.examine on example "
            "inputs"
        ) from error


def _run_model(
    model: nn.Module, inputs: Sequence[object], keywords: Mapping[str, object] | None
) -> tuple[Tensor, ...]:
    try:
        return tensors_of(model(*_copy_values(inputs), **_copy_values(dict(keywords or {}))))
    except Exception as error:
        given = ", ".join(_describe_argument(value) for value in inputs) or "nothing"
        raise UsageError(
            f"{type(model).__name__} cannot run on {given}: {type(error).__name__}: {error}; pass "
            "the inputs that the training passes to the model"
        ) from error


@contextmanager
def _recording_calls(functions: Sequence[type[Function]]) -> Iterator[list[_RecordedCalls]]:
    """Record the calls of some Functions inside the block. The list is filled at the end of the block."""
    recorded: dict[type[Function], _RecordedCalls] = {}
    found: list[_RecordedCalls] = []
    with ExitStack() as stack:
        for function in functions:
            method = _recording_forward(function, recorded)
            stack.enter_context(replaced_method(function, "forward", method))
        yield found
        found.extend(recorded.values())


def _recording_forward(
    function: type[Function], recorded: dict[type[Function], _RecordedCalls]
) -> Callable[..., Any]:
    forward: Any = function.forward  # Any: the user's method may have any signature
    skipped = int(function.setup_context is Function.setup_context)  # ctx comes first

    def recording(*arguments: Any) -> Any:
        recorded.setdefault(function, _RecordedCalls(function)).add(arguments[skipped:])
        return forward(*arguments)

    return recording


def _copy_values(
    values: Any,
) -> Any:  # Any: nested values of any type, and a copy of the same structure
    return _pytree.tree_map_only(Tensor, _copy_of_tensor, values)


def _copy_of_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _describe_argument(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype}".removeprefix("torch.") + f"{list(value.shape)}"
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)
    return type(value).__name__
