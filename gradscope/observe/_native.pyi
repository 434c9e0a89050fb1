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
    /,
) -> str: ...
def add(rows: bytearray, is_full: bool, tensor: torch.Tensor, row: int, /, *also: int) -> bool: ...
def add_each(
    rows: bytearray,
    is_full: bool,
    tensors: list[torch.Tensor],
    targets: list[tuple[int, ...]],
    kept: NDArray[np.uint8] | None,
    /,
) -> list[int]: ...
def find_suspects(tensors: list[torch.Tensor], /) -> list[int]: ...
def add_changes(
    rows: bytearray,
    is_full: bool,
    tensors: list[torch.Tensor],
    targets: list[tuple[int, ...]],
    kept: NDArray[np.uint8] | None,
    /,
) -> list[int]: ...
