"""What hooks do in the common case, in C: a plain tensor of floats on the host, and nobody about.

Everything that makes a case uncommon is asked of PyTorch each time; where one answer is another,
nothing is done here, and the hooks in Python, which know every case, do it all.
"""

from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["NO_ACTIVE_MODES", "NativeHooks", "make_native_hooks"]

NO_ACTIVE_MODES = (
    (torch._C._len_torch_function_stack, 0),  # noqa: SLF001 - no public names
    (torch._C._len_torch_dispatch_stack, 0),  # noqa: SLF001 - as above
)
_IN_FORWARD = (
    *NO_ACTIVE_MODES,
    (torch.is_grad_enabled, True),
    (torch._C._current_graph_task_id, -1),  # noqa: SLF001 - nothing is computed again
    (torch._C._functorch.peek_interpreter_stack, None),  # noqa: SLF001 - no torch.func transform
    (torch._C._is_any_autocast_enabled, False),  # noqa: SLF001 - gradients are of the loss itself
)
_IN_BACKWARD = (*NO_ACTIVE_MODES, (torch.is_grad_enabled, False))


class NativeHooks(Protocol):
    """What `gradscope.native._native.NativeHooks` is."""

    def record_output(self, module: nn.Module, output: Any) -> bool:  # Any: whatever a module returns
        """Measure an output and watch its gradient. False: nothing was done."""

    def add_module(self, module: nn.Module, out_row: int, grad_row: int, place: object) -> None:
        """Let a module be seen; `place` is what a hook in Python is to be told."""

    def begin_epoch(self, epoch: int) -> None:
        """Begin an epoch: hooks placed in an earlier one are deaf."""

    def take_counts(self) -> tuple[float, int]:
        """Return the seconds spent and the outputs seen since it was last asked."""


def make_native_hooks(
    native: ModuleType,
    rows: bytearray,
    bins: bytearray | None,
    expected: bytearray,
    on_gradient: Callable[[Any, torch.Tensor], None],  # Any: (epoch, place)
    give_up: Callable[[Exception], None],
) -> NativeHooks:
    """Return a watch that writes into a buffer's rows.

    `on_gradient` gets what cannot be measured in C. `give_up` gets what went wrong there.
    """
    watch: NativeHooks = native.NativeHooks(
        rows, bins, expected, _IN_FORWARD, _IN_BACKWARD, OrderedDict, on_gradient, give_up
    )
    return watch
