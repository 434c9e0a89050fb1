"""The native pass: one look at memory for all columns, in C, where it was built and PyTorch allows it.

`gradscope.native._native` is optional: without a compiler gradscope installs without it, and all
is measured by `gradscope.observe.reduction` instead, more slowly. GRADSCOPE_NATIVE=0 in the environment
does the same. Both give the same numbers.
"""

import functools
import os
from collections.abc import Callable
from types import ModuleType

import torch

from gradscope.columns import COLUMN_NAMES

__all__ = ["native_module", "pass_name"]

_SWITCH = "GRADSCOPE_NATIVE"


def native_module() -> ModuleType | None:
    """Return the extension, ready for use; None where the eager pass is to be taken."""
    return None if os.environ.get(_SWITCH) == "0" else _load()[0]


def pass_name() -> str:
    """Return which pass measures CPU tensors: "native avx2", "native portable", or "eager: <why>"."""
    if os.environ.get(_SWITCH) == "0":
        return f"eager: {_SWITCH}=0"
    return _load()[1]


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """Return the extension and what it is called, or None and why there is none."""
    try:
        from gradscope.native import _native  # noqa: PLC0415 - it may not have been built
    except ImportError as error:
        return None, f"eager: the native pass was not built ({error})"
    if _native.COLUMNS != COLUMN_NAMES:
        return None, "eager: the native pass was built for other columns; install gradscope anew"
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if exchange is None:
        return None, "eager: this PyTorch does not publish DLPack's exchange functions"
    try:
        name = _native.bind(
            exchange, torch.Tensor, torch.nn.Parameter, torch.Tensor.is_neg, 0, _threads()
        )
    except ImportError as error:
        return None, f"eager: {error}"
    return _native, f"native {name}"


def _threads() -> Callable[[], int] | None:
    """Return what tells how many threads PyTorch runs on, where its pool is the one that OpenMP has."""
    uses_openmp = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
    return torch.get_num_threads if uses_openmp else None
