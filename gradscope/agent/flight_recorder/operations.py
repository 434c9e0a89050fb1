"""`OperationWatcher`: a dispatch mode that finds the operation in which a NaN or an infinity arises.

An element that is not finite has its origin in the operation that made it from finite operands. Operations that
pass it on inherit that origin, so the origin of a result is known when it reaches the output. A NaN that the model
discards (`torch.where`) does not count. Nor does an infinity that a program wrote as a mask: if NaN comes from it, the
operation that made the NaN is the origin.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradscope.agent.flight_recorder.operands import describe_operands
from gradscope.agent.flight_recorder.origin import Origin
from gradscope.agent.flight_recorder.source import SourceLine, line_of_caller
from gradscope.hooks import is_measurable
from gradscope.observe import has_numbers

__all__ = ["Nonfinite", "OperationWatcher", "count_nonfinite", "widened"]

_MASKS: Final = frozenset(
    {
        "masked_fill", "masked_fill_", "full", "full_like", "new_full", "fill", "fill_", "where", "scalar_tensor",
        "tril", "triu", "masked_scatter", "index_fill", "index_fill_", "zeros_like", "lift_fresh", "_to_copy",
        "constant_pad_nd", "index_put_", "index_put", "copy_", "scatter", "scatter_",
    }
)  # fmt: skip
"""Operations with which programs write an infinity on purpose."""


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """How many elements of a tensor are NaN, and how many are infinite."""

    nan: int
    inf: int

    def __bool__(self) -> bool:
        """Whether any element is not finite."""
        return self.nan + self.inf > 0


_NONE: Final = Nonfinite(0, 0)


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return float8 as float32, for operations that torch does not have for float8; others as they are."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def count_nonfinite(tensor: torch.Tensor) -> Nonfinite:
    """Count NaN and infinities; none for a tensor without numbers."""
    if not is_measurable(tensor) or not has_numbers(tensor) or tensor.layout is not torch.strided:
        return _NONE
    numbers = widened(tensor.detach())
    if bool(torch.isfinite(numbers).all()):
        return _NONE
    nan = int(torch.isnan(numbers).sum())
    return Nonfinite(nan, int((~torch.isfinite(numbers)).sum()) - nan)


@dataclass(frozen=True, slots=True)
class _Event:
    """An origin. order: of its operation in the replay. is_mask: a program wrote the infinity on purpose."""

    order: int
    origin: Origin
    is_mask: bool = False


@dataclass(frozen=True, slots=True)
class _Node:
    """Where the operation of a graph node ran in the forward pass."""

    layer: str
    operation: str
    line: SourceLine | None


class OperationWatcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Watches the operations of a replay: forward first, then backward. Add known tensors before with `add`.

    layer: the innermost module that runs now; the replay sets it. is_debugging: stop in the debugger at each origin.
    boundary: the functions that run the replay.
    """

    def __init__(self, boundary: Sequence[CodeType], called_at: SourceLine | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.layer = ""
        self.is_debugging = False
        self._boundary = boundary
        self._called_at = called_at
        self._events: dict[int, tuple[torch.Tensor, _Event]] = {}
        """By address of the memory: a tensor that keeps it, and where its elements that are not finite come from."""
        self._count = 0
        self._entered: list[int] = []
        self._ranges: list[tuple[int, int, str]] = []
        """By layer, the inner ones first: the sequence numbers of its graph nodes."""
        self._nodes: dict[int, _Node] = {}

    def enter(self, layer: str) -> None:
        """Note that a layer begins."""
        self.layer = layer
        self._entered.append(_sequence_number())

    def leave(self, layer: str) -> None:
        """Note that a layer has returned."""
        if self._entered:
            self._ranges.append((self._entered.pop(), _sequence_number(), layer))

    def add(self, tensor: torch.Tensor, origin: Origin) -> None:
        """Give the origin of a tensor that is not finite before the replay."""
        is_mask = origin.what == "Inf" and origin.place == "input"
        self._events[_address(tensor)] = tensor, _Event(-1, origin, is_mask)

    def first_origin(self, tensors: Iterable[torch.Tensor]) -> Origin | None:
        """Return the first origin of what is not finite in some tensors; None if all is finite or a mask."""
        found = []
        for each in tensors:
            counts = count_nonfinite(each)
            event = self._event_of(each) if counts else None
            if event is not None and (counts.nan or not event.is_mask):
                found.append(event)
        return min(found, key=_order).origin if found else None

    def _event_of(self, tensor: torch.Tensor) -> _Event | None:
        known = self._events.get(_address(tensor))
        return None if known is None else known[1]

    def _location_of(self, node: torch.autograd.graph.Node) -> _Node | None:
        """Return where the forward operation of a node ran; None if not known."""
        number = node._sequence_nr()  # noqa: SLF001 - no public name
        if number in self._nodes:
            return self._nodes[number]
        layer = next((layer for first, last, layer in self._ranges if first <= number < last), None)
        return None if layer is None else _Node(layer, "", None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # Any: as torch's own
        """Run an operation, and follow what is not finite."""
        kwargs = kwargs or {}
        operands = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        is_written = func._schema.is_mutable  # noqa: SLF001 - no public name
        before = [count_nonfinite(each) for each in operands] if is_written else None
        kept = [each.clone() for each in operands] if is_written and _is_small(operands) else operands
        result = func(*args, **kwargs)
        is_forward = torch.is_grad_enabled() or torch._C._current_autograd_node() is None  # noqa: SLF001 - no public name
        if is_forward:
            self._note_node(func)
        for tensor in _results(func, result, operands):
            found = count_nonfinite(tensor)
            if found:
                bad = before or [count_nonfinite(each) for each in operands]
                self._follow(func, tensor, found, operands, kept, bad, is_forward=is_forward)
            elif not is_written and func._schema.returns and not func.is_view:  # noqa: SLF001 - as above
                self._events.pop(_address(tensor), None)
        return result

    def _follow(
        self,
        func: Any,  # Any: torch's own
        tensor: torch.Tensor,
        found: Nonfinite,
        operands: Sequence[torch.Tensor],
        kept: Sequence[torch.Tensor],
        bad: Sequence[Nonfinite],
        *,
        is_forward: bool,
    ) -> None:
        """Note the origin of a result that is not finite."""
        known = [self._event_of(each) for each, state in zip(operands, bad, strict=True) if state]
        real = [event for event in known if event is not None and not event.is_mask]
        masks = [event for event in known if event is not None and event.is_mask]
        if real:
            event = min(real, key=_order)
        elif masks and not found.nan:
            event = masks[0]
        else:
            is_passed_on = any(bad) and not found.nan  # an infinity from outside
            is_mask = not found.nan and is_forward and (is_passed_on or _name(func) in _MASKS)
            origin = self._arises(func, found, tensor, kept, is_forward=is_forward)
            self._count += 1
            if self.is_debugging and not is_mask:
                breakpoint()  # `up` leads to the line of the model
            event = _Event(self._count, origin, is_mask)
        self._events[_address(tensor)] = tensor, event

    def _arises(
        self,
        func: Any,  # Any: as above
        found: Nonfinite,
        tensor: torch.Tensor,
        kept: Sequence[torch.Tensor],
        *,
        is_forward: bool,
    ) -> Origin:
        layer, operation = self.layer, f"{func.namespace}.{_name(func)}"
        line = line_of_caller(2, self._boundary)
        detail = describe_operands(_name(func), kept, found.nan > 0)
        if is_forward:
            line = line or self._called_at
        else:
            node = torch._C._current_autograd_node()  # noqa: SLF001 - no public name
            seen = None if node is None else self._location_of(node)
            operation = operation if node is None else node.name()
            if seen is not None:
                layer, line = seen.layer, line or seen.line
                operation = f"{operation} of {seen.operation}" if seen.operation else operation
        return Origin(
            place="forward" if is_forward else "backward",
            what="NaN" if found.nan else "Inf",
            layer=layer,
            operation=operation,
            line=line,
            count=found.nan + found.inf,
            total=tensor.numel(),
            detail=detail,
        )

    def _note_node(self, func: Any) -> None:  # Any: as above
        """Note where the newest graph node was made."""
        number = _sequence_number() - 1
        if number not in self._nodes:
            line = line_of_caller(2, self._boundary) or self._called_at
            self._nodes[number] = _Node(self.layer, f"{func.namespace}.{_name(func)}", line)


def _sequence_number() -> int:
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
    return number


def _order(event: _Event) -> int:
    return event.order


def _name(func: Any) -> str:  # Any: as above
    name: str = func.overloadpacket.__name__
    return name


def _results(func: Any, result: object, operands: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the tensors that an operation has made or written."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, list | tuple):
        yield from (each for each in tree_leaves(result) if isinstance(each, torch.Tensor))
    elif result is None and func._schema.is_mutable:  # noqa: SLF001 - no public name
        yield from operands


def _address(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return id(tensor)


_SMALL_BYTES: Final = 64 << 20


def _is_small(operands: Sequence[torch.Tensor]) -> bool:
    return sum(each.numel() * each.element_size() for each in operands) <= _SMALL_BYTES
