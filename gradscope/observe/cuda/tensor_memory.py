"""The memory of a tensor for the Triton kernels: dense in any order of dims, read without a copy."""

from dataclasses import dataclass

import torch

from gradscope.hooks import is_sharded, local_part

__all__ = ["KINDS", "Memory", "memory_of"]

KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""The dtypes that the kernels read."""

_ALIGNED_BYTES = 16


@dataclass(frozen=True, slots=True)
class Memory:
    """Contiguous elements, each of which counts `repeats` times."""

    address: int
    size: int
    repeats: int
    dtype: torch.dtype

    @property
    def is_aligned(self) -> bool:
        """Whether the memory can be read 16 bytes at a time."""
        return self.address % _ALIGNED_BYTES == 0


def memory_of(tensor: torch.Tensor) -> Memory | None:
    """Return the memory of a tensor, or None if it cannot be read in place.

    It cannot be read in place if the tensor has another dtype, is of a subclass (except a distributed tensor, whose
    local part is read), is a negated view, sparse, nested or a functorch tensor, has gaps or overlaps in memory, or
    has no storage. A dim of stride 0 is read once.
    """
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return memory_of(local_part(tensor).detach()) if is_sharded(tensor) else None
    if (
        tensor.dtype not in KINDS
        or tensor.layout is not torch.strided
        or tensor.is_nested
        or tensor.is_neg()
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001 - no public name
    ):
        return None
    size = tensor.numel()
    if size == 0:
        return Memory(0, 0, 1, tensor.dtype)
    stored = size if tensor.is_contiguous() else _stored(tensor)
    address = tensor.data_ptr()
    if stored == 0 or address == 0:
        return None
    return Memory(address, stored, size // stored, tensor.dtype)


def _stored(tensor: torch.Tensor) -> int:
    """Return the number of elements in memory if they fill it without gaps, else 0."""
    size = 1
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride == 0 or extent == 1:
            continue
        if stride != size:
            return 0
        size *= extent
    return size
