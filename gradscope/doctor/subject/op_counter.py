"""Records the operations of a backward, and computes which of them are needed for only one result."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OperationLog", "OperationObserver", "OperationRecorder", "ResultMode"]

_PRODUCTS: Final = frozenset({"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"})
_CONVOLUTIONS: Final = frozenset({"convolution", "convolution_backward"})


@dataclass(slots=True)
class OperationLog:
    """The operations of one backward in order, and its results."""

    operations: list[tuple[float, list[int], list[int]]] = field(default_factory=list)
    """(cost, ids of inputs, ids of outputs); the cost is about the number of multiplications."""
    kept: list[object] = field(default_factory=list)
    """All tensors. They are held so that their ids stay unique."""
    returned: tuple[object, ...] = ()

    @property
    def count(self) -> int:
        """The number of operations."""
        return len(self.operations)

    def only_for(self, position: int) -> tuple[float, int]:
        """Return the share of the cost, and the number of operations, needed only for one result."""
        others = [g for i, g in enumerate(self.returned) if i != position and isinstance(g, Tensor)]
        mine = self._needed_for([self.returned[position]]) - self._needed_for(others)
        total = sum(cost for cost, _, _ in self.operations)
        spent = sum(self.operations[i][0] for i in mine)
        return (spent / total if total else 0.0), len(mine)

    def _needed_for(self, results: Sequence[object]) -> set[int]:
        wanted = {id(result) for result in results}
        needed = set()
        for i in range(len(self.operations) - 1, -1, -1):
            _, inputs, outputs = self.operations[i]
            if wanted.intersection(outputs):
                needed.add(i)
                wanted.update(inputs)
        return needed


class OperationObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """A dispatch mode that calls `observe` after each operation, and does not change operations.

    By default, torch imports all of Dynamo to exclude a mode from tracing, which takes seconds.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def observe(self, func: Any, args: Sequence[Any], result: Any) -> None:  # Any: torch's protocol
        """Take note of an operation."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # Any: torch's protocol
        result = func(*args, **(kwargs or {}))
        self.observe(func, (*args, *(kwargs or {}).values()), result)
        return result


class ResultMode(TorchFunctionMode):
    """A mode that passes the result of each function of torch through `change`."""

    def change(self, name: str, args: tuple[Any, ...], result: Any) -> Any:  # Any: torch's protocol
        """Return the result to use for the function of this name."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # Any: torch's protocol
        return self.change(getattr(func, "__name__", ""), args, func(*args, **(kwargs or {})))


class OperationRecorder(OperationObserver):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Records the operations that run while the mode is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's class is untyped
        self.log = OperationLog()

    def observe(self, func: Any, args: Sequence[Any], result: Any) -> None:  # Any: torch's protocol
        """Record the cost, the inputs and the outputs of an operation."""
        inputs = [t for t in _pytree.tree_leaves(args) if isinstance(t, Tensor)]
        outputs = [t for t in _pytree.tree_leaves(result) if isinstance(t, Tensor)]
        self.log.kept += [*inputs, *outputs]
        cost = _estimate_cost(func, inputs, outputs)
        self.log.operations.append((cost, [id(t) for t in inputs], [id(t) for t in outputs]))


def _estimate_cost(
    func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> float:  # Any: an operator of torch
    if getattr(func, "is_view", False):
        return 0.0
    name = func.overloadpacket.__name__
    if name in _PRODUCTS:
        return float(outputs[0].numel() * inputs[-1].shape[0 if inputs[-1].dim() < 3 else 1])
    if name in _CONVOLUTIONS:
        return float(
            math.prod(inputs[0].shape) * max(1, inputs[1].numel() // max(1, inputs[1].shape[0]))
        )
    read = max((t.numel() for t in inputs), default=0)
    return float(max(read, *(t.numel() for t in outputs), 0) if outputs else read)
