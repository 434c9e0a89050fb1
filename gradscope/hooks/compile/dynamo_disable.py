"""Excludes functions from torch.compile: it neither traces them nor compiles what they call."""

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch

__all__ = ["untraced"]

F = TypeVar("F", bound=Callable[..., Any])


def untraced(function: F) -> F:
    """Exclude a function from tracing like `torch.compiler.disable`, but without importing the compiler.

    The attribute tells Dynamo to skip the function when it traces a caller; the strategy skips the function's own
    frames. The function is not wrapped, so calling it is not slower.
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"expected a function, got {type(function).__name__}")
    frames = torch._C._dynamo.eval_frame  # noqa: SLF001 - no public name
    skip = frames._FrameAction.SKIP  # noqa: SLF001 - as above
    frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))  # noqa: SLF001 - as above
    function._torchdynamo_disable = True  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    function._torchdynamo_disable_msg = "gradscope hook: excluded from torch.compile"  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return function
