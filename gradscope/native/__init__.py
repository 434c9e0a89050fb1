"""Loads the C extension, which reduces a CPU tensor to all columns in one read of its memory.

`gradscope.native._native` is optional. If there is no compiler, gradscope is installed without it, and
`gradscope.observe.reduction` computes the same values more slowly. GRADSCOPE_NATIVE=0 in the environment
disables the extension.
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
    """Return the extension, ready for use; None if the eager pass is used."""
    return None if os.environ.get(_SWITCH) == "0" else _load()[0]


def pass_name() -> str:
    """Return the name of the pass that reduces CPU tensors: "native avx2", "native portable", or "eager: <reason>"."""
    if os.environ.get(_SWITCH) == "0":
        return f"eager: {_SWITCH}=0"
    return _load()[1]


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """Return (extension, name of the pass), or (None, reason)."""
    try:
        from gradscope.native import _native  # noqa: PLC0415 - it may not have been built
    except ImportError as error:
        return None, f"eager: the native pass was not built ({error})"
    if _native.COLUMNS != COLUMN_NAMES:
        return None, "eager: the native pass was built for other columns; reinstall gradscope"
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
    """Return the function that returns PyTorch's number of threads; None if its thread pool is not OpenMP."""
    uses_openmp = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
    return torch.get_num_threads if uses_openmp else None
