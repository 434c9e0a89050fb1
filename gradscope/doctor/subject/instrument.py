"""`instrumented`: records the calls of Functions before autograd casts, sums and checks the gradients.

It wraps forward, setup_context and backward of the classes inside a block, and restores the classes afterwards. The
results of the methods do not change.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.doctor.subject.op_counter import OperationLog, OperationRecorder

__all__ = [
    "CtxTensor",
    "FunctionCall",
    "backward_name",
    "context_name",
    "instrumented",
    "is_same",
    "replaced_method",
    "size_of",
]

_TORCHS_OWN: Final = frozenset({"to_save", "dirty_tensors", "non_differentiable", "saved_for_forward"})
"""The attributes of ctx that torch itself sets."""


@dataclass(frozen=True, slots=True)
class CtxTensor:
    """An attribute of ctx that holds tensors."""

    attribute: str
    size_bytes: int
    role: str
    """What the tensors are to forward: "an argument", "an output" or "an intermediate"."""


@dataclass(slots=True)
class FunctionCall:
    """The record of one call of a Function: filled by forward, and by backward if it runs."""

    function: type[Function]
    inputs: tuple[object, ...] = ()
    modified_inputs: tuple[int, ...] = ()
    """Positions of inputs that forward changed without mark_dirty."""
    dirty_inputs: int = 0
    returned_inputs: tuple[int, ...] = ()
    """Positions of inputs that forward returned unchanged."""
    held: tuple[CtxTensor, ...] = ()
    outputs: tuple[object, ...] = ()
    saved: tuple[tuple[object, int | None], ...] = ()
    """The arguments of save_for_backward, each with its position among the inputs; None if it is not an input."""
    untracked_saved: tuple[int, ...] = ()
    """Positions of saved tensors that are neither an argument nor an output, and so have no graph."""
    needs: tuple[bool, ...] = ()
    returned: tuple[object, ...] | None = None
    """The value that backward returned; None if it did not run or raised."""
    modified_gradients: tuple[int, ...] = ()
    modified_saved: tuple[int, ...] = ()
    operations: OperationLog = field(default_factory=OperationLog)
    """The operations that backward ran."""


@contextmanager
def instrumented(functions: Sequence[type[Function]]) -> Iterator[list[FunctionCall]]:
    """Record the calls of some Functions inside the block."""
    calls: list[FunctionCall] = []
    contexts: dict[int, tuple[object, FunctionCall]] = {}  # holding ctx keeps its id unique
    with ExitStack() as stack:
        for function in functions:
            for name, method in _recording_methods(function, calls, contexts).items():
                stack.enter_context(replaced_method(function, name, method))
        yield calls


@contextmanager
def replaced_method(function: type[Function], name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Replace a static method of a Function inside the block."""
    original = vars(function).get(name)
    setattr(function, name, staticmethod(method))
    try:
        yield
    finally:
        if original is None:
            delattr(function, name)
        else:
            setattr(function, name, original)


def is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same values; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124 - NaN


def backward_name(function: type[Function]) -> str:
    """Return the name of a Function's backward method: "backward" or "vjp"."""
    return "vjp" if function.vjp is not Function.vjp else "backward"


def context_name(function: type[Function]) -> str:
    """Return the name of the method that fills ctx: "setup_context" or "forward"."""
    return "forward" if function.setup_context is Function.setup_context else "setup_context"


def _recording_methods(
    function: type[Function],
    calls: list[FunctionCall],
    contexts: dict[int, tuple[object, FunctionCall]],
) -> dict[str, Callable[..., Any]]:
    """Return methods that record a call and do what the Function's own methods do, by name."""
    forward: Any = function.forward  # Any: the user's methods
    setup: Any = function.setup_context
    backward: Any = getattr(function, backward_name(function))

    def record_context(ctx: Any) -> None:
        contexts[id(ctx)] = ctx, calls[-1]
        _record_context(ctx, calls[-1])

    def recording_forward(ctx: Any, *args: Any) -> Any:
        result = _record_forward(function, forward, args, (ctx, *args), calls)
        record_context(ctx)
        return result

    def forward_without_context(*args: Any) -> Any:
        return _record_forward(function, forward, args, args, calls)

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        setup(ctx, inputs, output)
        record_context(ctx)

    def recording_backward(ctx: Any, *gradients: Any) -> Any:
        known = contexts.get(id(ctx))
        if known is None:
            return backward(ctx, *gradients)
        return _record_backward(known[1], backward, ctx, gradients)

    methods: dict[str, Callable[..., Any]] = {backward_name(function): recording_backward}
    if context_name(function) == "forward":
        return methods | {"forward": recording_forward}
    return methods | {"forward": forward_without_context, "setup_context": setup_context}


def _record_forward(
    function: type[Function],
    forward: Any,
    inputs: tuple[Any, ...],
    arguments: tuple[Any, ...],
    calls: list[FunctionCall],
) -> Any:  # Any: the user's method
    call = FunctionCall(function, inputs)
    calls.append(call)
    before = _copies(inputs)
    result = forward(*arguments)
    call.modified_inputs = _positions_written_to(inputs, before)
    call.outputs = results = result if isinstance(result, tuple) else (result,)
    call.returned_inputs = tuple(
        i for i, x in enumerate(inputs) if isinstance(x, Tensor) and any(x is r for r in results)
    )
    return result


def _record_context(ctx: Any, call: FunctionCall) -> None:  # Any: the user's attributes
    dirty = [id(t) for t in getattr(ctx, "dirty_tensors", None) or ()]
    call.dirty_inputs = len(dirty)
    call.modified_inputs = tuple(i for i in call.modified_inputs if id(call.inputs[i]) not in dirty)
    call.returned_inputs = tuple(i for i in call.returned_inputs if id(call.inputs[i]) not in dirty)
    known = {id(t) for t in (*call.inputs, *call.outputs)}
    saved = tuple(getattr(ctx, "to_save", None) or ())
    places = {id(x): i for i, x in enumerate(call.inputs) if isinstance(x, Tensor)}
    call.saved = tuple((t, places.get(id(t))) for t in saved)
    call.untracked_saved = tuple(
        i for i, t in enumerate(saved) if _has_gradient(t) and id(t) not in known
    )
    call.held = tuple(_held_on(ctx, call))


def _held_on(ctx: Any, call: FunctionCall) -> Iterator[CtxTensor]:  # Any: the user's attributes
    for attribute, value in vars(ctx).items():
        tensors = [t for t in _values_inside(value) if _has_gradient(t)]
        if tensors and attribute not in _TORCHS_OWN:
            roles = {_role(tensor, call) for tensor in tensors}
            role = min(roles, key=("an intermediate", "an output", "an argument").index)
            yield CtxTensor(attribute, sum(size_of(t) for t in tensors), role)


def _role(tensor: Tensor, call: FunctionCall) -> str:
    if any(tensor is x for x in call.inputs):
        return "an argument"
    return "an output" if any(tensor is y for y in call.outputs) else "an intermediate"


def size_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's values; of a sparse tensor, those of its dense form."""
    return tensor.numel() * tensor.element_size()


def _values_inside(value: object) -> list[Any]:  # Any: the user's attributes
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _has_gradient(value: object) -> bool:
    """Return whether a value is a tensor that can have a gradient, and not a mask or an index."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _record_backward(
    call: FunctionCall, backward: Any, ctx: Any, gradients: tuple[Any, ...]
) -> Any:  # Any: the user's values
    call.needs = tuple(ctx.needs_input_grad)
    try:
        saved = tuple(ctx.saved_tensors)
    except RuntimeError:
        saved = ()  # modified since it was saved: backward will raise
    before, saved_before = _copies(gradients), _copies(saved)
    recorder = OperationRecorder()
    try:
        with recorder:
            result = backward(ctx, *gradients)
    finally:
        call.modified_gradients = _positions_written_to(gradients, before)
        call.modified_saved = _positions_written_to(saved, saved_before)
    call.returned = result if isinstance(result, tuple) else (result,)
    call.operations = recorder.log
    call.operations.returned = call.returned
    return result


def _copies(values: Sequence[object]) -> list[tuple[Tensor, int] | None]:
    """Return a copy and the version of each tensor."""
    with torch.no_grad():
        return [
            (v.detach().clone(), _version(v))
            if isinstance(v, Tensor) and v.layout is torch.strided
            else None
            for v in values
        ]


def _positions_written_to(
    values: Sequence[object], before: Sequence[tuple[Tensor, int] | None]
) -> tuple[int, ...]:
    """Return the positions of tensors that were written to, even if their values did not change."""
    pairs = enumerate(zip(values, before, strict=True))
    return tuple(
        i
        for i, (v, b) in pairs
        if isinstance(v, Tensor)
        and b is not None
        and (_version(v) != b[1] or not is_same(v.detach(), b[0]))
    )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - autograd's own counter
