"""Hides gradscope's operations from active modes, which count or rewrite PyTorch's operations."""

from contextlib import AbstractContextManager, ExitStack

import torch
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["hidden_from_modes", "is_plain", "is_traced", "is_transforming"]


def hidden_from_modes() -> AbstractContextManager[object]:
    """Return a context in which operations are not seen by modes or Tensor subclasses."""
    if not torch._C._len_torch_dispatch_stack() and not torch._C._len_torch_function_stack():  # noqa: SLF001 - no public names
        return torch._C.DisableTorchFunctionSubclass()  # noqa: SLF001 - as above
    stack = ExitStack()
    stack.enter_context(_disable_current_modes())
    stack.enter_context(torch._C.DisableTorchFunction())  # noqa: SLF001 - as above
    return stack


def is_plain(value: object) -> bool:
    """Return whether `value` is a Tensor of no subclass and no mode is active, so no other code sees its operations."""
    return (
        type(value) is torch.Tensor
        and not torch._C._len_torch_function_stack()  # noqa: SLF001 - no public names
        and not torch._C._len_torch_dispatch_stack()  # noqa: SLF001 - as above
    )


def is_traced() -> bool:
    """Return whether torch.compile, torch.export or torch.jit.trace records the operations in progress in a graph."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None  # noqa: SLF001 - no public name


def is_transforming() -> bool:
    """Return whether a `torch.func` transform is active: its tensors have no data of their own."""
    # Not by _functorch.peek_interpreter_stack(): it makes a stack, which torch then copies for each backward pass.
    return torch._C._are_functorch_transforms_active()  # noqa: SLF001 - as above
