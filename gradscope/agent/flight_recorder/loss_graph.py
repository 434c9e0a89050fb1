"""Finds the operation of a loss in which a NaN or an infinity arises, forward or backward.

The loss is not part of the model, so it is not replayed. Right before its backward pass its graph is complete and
holds the operands: if the loss is not finite, these are read. If it is finite, its few nodes are watched while the
backward pass runs.
"""

import functools
import re
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final

import torch
from torch.autograd.graph import Node

from gradscope.agent.flight_recorder.operands import describe_operands
from gradscope.agent.flight_recorder.operations import Nonfinite, count_nonfinite
from gradscope.agent.flight_recorder.origin import Origin
from gradscope.agent.flight_recorder.source_search import find_line
from gradscope.hooks import hidden_from_modes

__all__ = ["LossGraph"]

_WALKED: Final = 256
_WATCHED: Final = 16
"""A larger graph is not watched in the backward pass: a watched node takes 3 µs."""

_SAFE: Final = frozenset(
    f"{name}Backward{number}"
    for number in (0, 1)
    for name in (
        "NllLoss", "NllLoss2D", "LogSoftmax", "MseLoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "Mean", "Sum", "Neg",
        "Add", "Sub", "Rsub", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Select", "Slice",
        "Gather", "Index", "Transpose", "T", "Permute", "Clone", "ToCopy", "BinaryCrossEntropyWithLogits",
    )
)  # fmt: skip
"""Nodes that make no NaN or infinity of a finite gradient. A loss of these only is not watched."""

_NO_NUMBER: Final = 2**63
"""Nodes without a sequence number, which accumulate gradients, have a larger one."""

_RESULTS: Final = ("_saved_result", "_saved_output", "_saved_out")
_NAME: Final = re.compile(r"^(.*?)(?:Backward)?\d*$")


class LossGraph:
    """The nodes between a loss and the model, in order of execution. Keep it only during its backward pass.

    is_of_model: whether a node with this sequence number belongs to a forward of the model.
    """

    def __init__(self, loss: torch.Tensor, is_of_model: Callable[[int], bool]) -> None:
        waiting = [loss.grad_fn]
        found: dict[Node, int] = {}
        while waiting and len(found) < _WALKED:
            node = waiting.pop()
            if node is None or node in found:
                continue
            number = node._sequence_nr()  # noqa: SLF001 - no public name
            if number >= _NO_NUMBER or is_of_model(number):
                continue
            found[node] = number
            waiting += [following for following, _ in node.next_functions]
        self._numbers = found

    @functools.cached_property
    def nodes(self) -> list[Node]:
        """The nodes, in order of execution."""
        return sorted(self._numbers, key=self._numbers.__getitem__)

    def explain_value(self) -> Origin | None:
        """Return the operation in which the loss becomes nonfinite, from the operands that the graph holds."""
        for node in self.nodes:
            operands = _saved(node)
            bad = [(name, count_nonfinite(each), each) for name, each in operands.items()]
            given = next(((name, found, each) for name, found, each in bad if found), None)
            if given is not None:
                producer = self._producer(node, given[0])
                if producer is not None:
                    return self._origin(producer, given[1], given[2].numel(), "")
                name = given[0].removeprefix("_saved_")
                what = "NaN" if given[1].nan else "inf"
                return self._origin(
                    node, given[1], given[2].numel(), f"its operand `{name}` contains {what}"
                )
            result = _result_of(node, operands)
            found = Nonfinite(0, 0) if result is None else count_nonfinite(result)
            if result is not None and found:
                detail = describe_operands(_operation(node), list(operands.values()), found.nan > 0)
                return self._origin(node, found, result.numel(), detail or _detail_of_loss(node))
        return self._origin(self.nodes[-1], Nonfinite(1, 0), 1, "") if self.nodes else None

    def watch(
        self,
        is_bad: Callable[[torch.Tensor], bool],
        report: Callable[[Origin], None],
        give_up: Callable[[Exception], None],
    ) -> bool:
        """Call `report` if the gradient becomes nonfinite in a node; `give_up` after an error of gradscope.

        The hooks end with the graph. Returns False if no node needs a hook, or there are too many.
        """
        names = [node.name() for node in self._numbers]
        if len(names) > _WATCHED or _SAFE.issuperset(names):
            return False
        for node in self.nodes:
            node.register_hook(_NodeHook(node.name(), self._place(node), is_bad, report, give_up))
        return True

    def _producer(self, node: Node, name: str) -> Node | None:
        """Return the node of the loss that computed an operand; None if it is a constant or an output of the model."""
        place = 1 if name in ("_saved_other", "_saved_target", "_saved_exponent") else 0
        following = [each for each, _ in node.next_functions]
        producer = following[place] if place < len(following) else None
        return producer if producer in self.nodes else None

    def _place(self, node: Node) -> tuple[int, int]:
        """Return which of how many nodes of its name a node is."""
        alike = [each for each in self.nodes if each.name() == node.name()]
        return alike.index(node), len(alike)

    def _origin(self, node: Node, found: Nonfinite, total: int, detail: str) -> Origin:
        place, count = self._place(node)
        operation = _operation(node)
        line = find_line(sys._getframe(1), operation, place, count)  # noqa: SLF001 - the frames of the script are needed
        return Origin(
            place="loss",
            what="NaN" if found.nan else "Inf",
            operation=f"aten.{operation}",
            line=line,
            is_line_found=line is not None,
            count=found.nan + found.inf,
            total=total,
            detail=detail,
        )


class _NodeHook:
    """Reports a node that makes a nonfinite gradient from a finite one."""

    def __init__(
        self,
        name: str,
        place: tuple[int, int],
        is_bad: Callable[[torch.Tensor], bool],
        report: Callable[[Origin], None],
        give_up: Callable[[Exception], None],
    ) -> None:
        self._name = name
        self._give_up = give_up
        self._is_bad = is_bad
        self._place = place
        self._report = report

    def __call__(
        self, made: Sequence[torch.Tensor | None], given: Sequence[torch.Tensor | None]
    ) -> None:
        """Check what a node has made; the hook returns None, so nothing changes."""
        try:
            with hidden_from_modes():
                self._check(made, given)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._give_up(error)

    def _check(self, made: Sequence[torch.Tensor | None], given: Sequence[torch.Tensor | None]) -> None:
        sick = next((each for each in made if each is not None and self._is_bad(each)), None)
        if sick is None or any(each is not None and self._is_bad(each) for each in given):
            return
        found = count_nonfinite(sick)
        operation = _short(self._name)
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - as above
        line = find_line(frame, operation, *self._place)
        origin = Origin(
            place="loss",
            what="NaN" if found.nan else "Inf",
            operation=f"{self._name} of aten.{operation}",
            line=line,
            is_line_found=line is not None,
            count=found.nan + found.inf,
            total=sick.numel(),
            detail="in its backward pass",
        )
        self._report(origin)


def _operation(node: Node) -> str:
    return _short(node.name())


def _short(name: str) -> str:
    """Return the operation of a node: "nll_loss" of "NllLossBackward0"."""
    match = _NAME.match(name)
    words = match[1] if match else name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words).lower()


def _saved(
    node: Any,
) -> dict[str, torch.Tensor]:  # Any: torch's nodes have attributes by their operation
    """Return the tensors among the operands that a node holds, by attribute."""
    found = {}
    for name in dir(node):
        if not name.startswith("_saved_") or name in _RESULTS:
            continue
        try:
            value = getattr(node, name)
        except RuntimeError:  # freed, or changed in place since
            continue
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            found[name] = value
    return found


def _result_of(node: Any, operands: dict[str, torch.Tensor]) -> torch.Tensor | None:  # Any: as above
    """Return the result of a node: what it holds, or its operation computed again; None if neither is possible."""
    for name in _RESULTS:
        try:
            value = getattr(node, name, None)
        except RuntimeError:
            continue
        if isinstance(value, torch.Tensor):
            return value
    if "_saved_total_weight" in operands:  # of nll_loss: the sum of the weights, by which it divides
        return operands["_saved_total_weight"].reciprocal()
    return _computed(_operation(node), node, operands)


def _computed(
    operation: str, node: Any, operands: dict[str, torch.Tensor]
) -> torch.Tensor | None:  # Any: as above
    packet = getattr(torch.ops.aten, operation, None)
    for name in packet.overloads() if packet is not None else ():
        overload = getattr(packet, name)
        arguments = []
        for argument in overload._schema.arguments:  # noqa: SLF001 - no public name
            key = f"_saved_{argument.name}"
            value = operands.get(key, getattr(node, key, None))
            if value is None and not argument.has_default_value():
                break
            arguments.append(argument.default_value if value is None else value)
        else:
            try:
                with torch.no_grad():
                    result = overload(*arguments)
            except (RuntimeError, TypeError, ValueError, IndexError):
                continue
            return result if isinstance(result, torch.Tensor) else None
    return None


def _detail_of_loss(node: Node) -> str:
    return (
        "the weights of all targets are 0, or all targets are ignored"
        if "NllLoss" in node.name()
        else ""
    )
