import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

COLUMNS: tuple[str, ...]

def bind(
    exchange: object,
    tensor_type: type[torch.Tensor],
    parameter_type: type[torch.Tensor],
    is_neg: object,
    pass_number: int = 0,
    get_num_threads: Callable[[], int] | None = None,
    /,
) -> str: ...
def add(
    rows: bytearray,
    bins: bytearray | None,
    digests: bytearray | None,
    tensor: torch.Tensor,
    row: int,
    /,
    *also: int,
) -> bool: ...
def digest(tensor: torch.Tensor, /) -> int | None: ...
def add_each(
    rows: bytearray,
    bins: bytearray | None,
    digests: bytearray | None,
    tensors: list[torch.Tensor],
    targets: list[tuple[int, ...]],
    kept: NDArray[np.uint8] | None,
    /,
) -> list[int]: ...
def add_gradients(
    rows: bytearray,
    bins: bytearray | None,
    digests: bytearray | None,
    parameters: list[torch.Tensor],
    targets: list[tuple[int, ...]],
    /,
) -> list[int]: ...
def are_finite(rows: bytearray, targets: list[tuple[int, ...]], /) -> bool: ...
def find_nonfinite(parameters: list[torch.nn.Parameter], /) -> list[int]: ...
def add_changes(
    rows: bytearray,
    bins: bytearray | None,
    digests: bytearray | None,
    tensors: list[torch.Tensor],
    targets: list[tuple[int, ...]],
    kept: NDArray[np.uint8] | None,
    /,
) -> list[int]: ...
def pack_bins(bins: NDArray[np.uint64], /) -> tuple[bytes, tuple[bytes, bytes, bytes, bytes]]: ...
def owned_ids(references: list[weakref.ref[torch.nn.Module]], name: str, /) -> bytes: ...

class StepCounter:
    step: int
    began_s: float
    began_at: int
    left: int
    must_plan: bool
    checks_at: int
    check_every: int
    spent_s: float
    optimizer: weakref.ref[torch.optim.Optimizer] | None
    leading: tuple[weakref.ref[torch.optim.Optimizer], ...]
    led: list[weakref.ref[torch.optim.Optimizer]]
    on_begin: Callable[[torch.optim.Optimizer, Any, Any], Any] | None
    on_end: Callable[[torch.optim.Optimizer, Any, Any], Any] | None

    def __new__(
        cls,
        step: int,
        clock: Callable[[], float],
        sequence_number: Callable[[], int],
        guards: tuple[tuple[Callable[[], object], object], ...],
        /,
    ) -> Self: ...
    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any, /) -> Any: ...
    def after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any, /) -> Any: ...
    def is_idle(self) -> bool: ...
    def count(self) -> None: ...
    def take(self) -> tuple[list[float], float, int, float]: ...

class NativeHooks:
    def __new__(
        cls,
        rows: bytearray,
        bins: bytearray | None,
        digests: bytearray | None,
        expected: bytearray,
        forward: tuple[tuple[Callable[[], object], object], ...],
        backward: tuple[tuple[Callable[[], object], object], ...],
        dict_type: type[OrderedDict[Any, Any]],
        on_gradient: Callable[[Any, torch.Tensor], object],
        give_up: Callable[[Exception], object],
        /,
    ) -> Self: ...
    def record_output(self, module: torch.nn.Module, output: Any, /) -> bool: ...
    def add_module(
        self, module: torch.nn.Module, out_row: int, grad_row: int, place: object, /
    ) -> None: ...
    def begin_epoch(self, epoch: int, /) -> None: ...
    def take_counts(self) -> tuple[float, int]: ...
