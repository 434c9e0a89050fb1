"""The C fast path of the hooks, for plain floating-point CPU tensors with no active modes.

Guards are pairs of a PyTorch function and its required result. They are checked in each call. If a guard fails, the
Python hooks do the work, which handle all cases.
"""

from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gradscope.native import _native

__all__ = ["NO_ACTIVE_MODES", "make_native_hooks"]

NO_ACTIVE_MODES = (
    (torch._C._len_torch_function_stack, 0),  # noqa: SLF001 - no public names
    (torch._C._len_torch_dispatch_stack, 0),  # noqa: SLF001 - as above
)
_IN_FORWARD = (
    *NO_ACTIVE_MODES,
    (torch.is_grad_enabled, True),
    (torch._C._current_graph_task_id, -1),  # noqa: SLF001 - no recomputation
    (torch._C._are_functorch_transforms_active, False),  # noqa: SLF001 - no torch.func transform
    (torch._C._is_any_autocast_enabled, False),  # noqa: SLF001 - gradients are those of the loss
)
_IN_BACKWARD = (*NO_ACTIVE_MODES, (torch.is_grad_enabled, False))


def make_native_hooks(
    native: ModuleType,
    rows: bytearray,
    bins: bytearray | None,
    digests: bytearray | None,
    expected: bytearray,
    on_gradient: Callable[[Any, torch.Tensor], None],  # Any: (epoch, place)
    give_up: Callable[[Exception], None],
) -> "_native.NativeHooks":
    """Return native hooks that write into the rows of a buffer.

    `on_gradient` receives gradients that cannot be reduced in C, `give_up` exceptions from C.
    """
    hooks: _native.NativeHooks = native.NativeHooks(
        rows, bins, digests, expected, _IN_FORWARD, _IN_BACKWARD, OrderedDict, on_gradient, give_up
    )
    return hooks
