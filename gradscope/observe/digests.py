"""The digest of a tensor by PyTorch's operations: the reference of the native pass, and its fallback.

The digest is the sum modulo 2^64 of a mix of index and bits over all elements; `gradscope/native/digest.h` defines
the mix. The index is that in the whole tensor in C order. So the digest depends neither on the layout in memory, nor
on the order of reading, nor on the device, and the digests of a DTensor's shards add up to the digest of the whole.
Parts of a tensor whose place in the whole is not known (FSDP1) are indexed from 0: each digest is of its rank's part.
"""

from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor

from gradscope.hooks import local_part
from gradscope.native import native_module

__all__ = ["digest_by_torch", "digest_of"]

_STEP = 0x9E3779B97F4A7C15 - 2**64
_CONSTANT = 0xD1B54A32D192ED03 - 2**64
_LOWER = 0xFFFFFFFF
_BLOCK = 1 << 18
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest_of(tensor: torch.Tensor) -> int | torch.Tensor | None:
    """Return the digest of a tensor of any dtype and layout of dims; of a DTensor, that of this rank's part.

    On a device it is an int64 tensor with one element, and nothing waits. None for a tensor without strided elements:
    sparse, quantized, nested, fake.
    """
    part = local_part(tensor).detach()
    if isinstance(part, FakeTensor) or part.is_meta or part.is_quantized or part.is_nested:
        return None
    if part.layout is not torch.strided:
        return None
    place = None if part is tensor or part.shape == tensor.shape else _place_in_whole(tensor)
    native = native_module()
    if native is not None and place is None and part.device.type == "cpu":
        found: int | None = native.digest(
            torch.view_as_real(part.resolve_conj()) if part.is_complex() else part
        )
        if found is not None:
            return found
    digest = digest_by_torch(part, *(place or ()))
    return int(digest) % 2**64 if part.device.type == "cpu" else digest


def digest_by_torch(
    part: torch.Tensor, offsets: Sequence[int] | None = None, whole: Sequence[int] | None = None
) -> torch.Tensor:
    """Return the digest as an int64 tensor with one element on the tensor's device.

    offsets, whole: where the part begins in each dim of the whole tensor, and the shape of the whole.
    """
    if part.is_complex():
        pairs = torch.view_as_real(part.resolve_conj())
        more = None if offsets is None or whole is None else ([*offsets, 0], [*whole, 2])
        return digest_by_torch(pairs, *(more or ()))
    shape = part.shape
    bits = part.resolve_neg().contiguous().view(-1).view(_INTEGERS[part.element_size()])
    sum_ = torch.zeros((), dtype=torch.int64, device=part.device)
    for begin in range(0, len(bits), _BLOCK):
        block = bits[begin : begin + _BLOCK]
        index = torch.arange(begin, begin + len(block), device=part.device)
        if offsets is not None and whole is not None:
            index = _index_in_whole(index, shape, offsets, whole)
        x = block.to(torch.int64)
        if block.element_size() < 8:
            x &= (1 << 8 * block.element_size()) - 1
            x |= x << 32
        sum_ += _mix_round(_mix_round(x ^ (index + 1) * _STEP) ^ _CONSTANT).sum()
    return sum_


def _mix_round(z: torch.Tensor) -> torch.Tensor:
    upper = (z >> 32) & _LOWER
    return (z & _LOWER) * upper + (upper | z << 32)


def _index_in_whole(
    index: torch.Tensor, shape: Sequence[int], offsets: Sequence[int], whole: Sequence[int]
) -> torch.Tensor:
    """Return the index in the whole tensor of elements with an index in a part of it."""
    found, stride = torch.zeros_like(index), 1
    for size, offset, of_whole in zip(reversed(shape), reversed(offsets), reversed(whole), strict=True):
        found += (index % size + offset) * stride
        index, stride = index // size, stride * of_whole
    return found


def _place_in_whole(tensor: torch.Tensor) -> tuple[Sequence[int], Sequence[int]] | None:
    """Return where this rank's part of a DTensor begins, and the shape of the whole; None if it is not known."""
    try:
        from torch.distributed.tensor import DTensor  # noqa: PLC0415 - only where there is one
        from torch.distributed.tensor._utils import (  # noqa: PLC0415 - as above
            compute_local_shape_and_global_offset,
        )
    except ImportError:
        return None
    if not isinstance(tensor, DTensor):
        return None
    _, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(offsets), tuple(tensor.shape)
