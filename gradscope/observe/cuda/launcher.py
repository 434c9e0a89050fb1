"""Which pass reduces CUDA tensors: PyTorch's own operations (eager), or the Triton kernels.

The kernels are experimental: they have been run in Triton's interpreter and compiled, and not yet run on a GPU. They
are off unless GRADSCOPE_TRITON=1 is set in the environment. Triton comes with PyTorch's CUDA builds for
Linux. Both passes give the same numbers up to the last bits of sums.
"""

import functools
import importlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch

from gradscope.observe.cuda.row_layout import LINES
from gradscope.observe.cuda.tensor_memory import Memory

__all__ = ["TritonPass", "device_pass_name", "failed_pass", "triton_pass"]

_SWITCH = "GRADSCOPE_TRITON"
_OFF = f"the Triton kernels are off; {_SWITCH}=1 turns them on"
_made: list["TritonPass"] = []
_PROGRAMS_PER_PROCESSOR = 8
_BLOCKS_PER_PROGRAM = 4
"""The minimum number of blocks that a program reads, so that merging into a line costs little."""
_LEAST_CAPABILITY = (7, 5)
_FLOAT32_IN_FLOAT64 = 0x381 << 52
"""The float64 bits of float32's smallest normal number, 2^-126: smaller changes count as subnormal."""
_LEAST_NORMAL = {
    torch.float64: 1 << 52,
    torch.float32: 1 << 23,
    torch.bfloat16: 1 << 23,
    torch.float16: 113 << 23,
}
"""The bits of a dtype's smallest normal magnitude, in the type to which the dtype is widened."""


def device_pass_name() -> str:
    """Return which pass reduces CUDA tensors: "triton", or "eager: <reason>"."""
    if not torch.cuda.is_available():
        return "eager: no CUDA device"
    device = torch.device("cuda", torch.cuda.current_device())
    found, why = _load(device) if _is_on() else (None, _OFF)
    if found is not None and found.failure is None:
        return "triton"
    return f"eager: {why if found is None else found.failure}"


def triton_pass(device: torch.device) -> "TritonPass | None":
    """Return a device's Triton pass, one for the whole process; None if the eager pass is used."""
    return _load(device)[0] if device.type == "cuda" and _is_on() else None


def _is_on() -> bool:
    return os.environ.get(_SWITCH) == "1"


@functools.cache
def _load(device: torch.device) -> tuple["TritonPass | None", str]:
    """Return a device's pass, or None and the reason."""
    if torch.version.hip is not None:
        return None, "the kernels were not made for ROCm"
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        return (
            None,
            f"the device is of compute capability {capability[0]}.{capability[1]}, 7.5 is needed",
        )
    try:
        importlib.import_module("triton")  # Triton is optional and slow to import
    except Exception as error:  # noqa: BLE001 - a broken installation fails in many ways; the error is reported
        return None, f"Triton cannot be imported ({error})"
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return TritonPass(device, processors * _PROGRAMS_PER_PROCESSOR), ""


def failed_pass() -> Exception | None:
    """Return the error that disabled a pass in this process, or None."""
    return next((made.error for made in _made if made.error is not None), None)


class TritonPass:
    """Launches the kernels on one device, with at most `programs` programs for one tensor.

    After a kernel has failed to compile or start, no kernel is launched any more. `failure` is the reason, and
    `failed_pass` returns the `error` for the report. During the capture of a CUDA graph, only kernels that have run
    before are launched, because a kernel cannot be loaded then.
    """

    def __init__(self, device: torch.device, programs: int) -> None:
        self._device = device
        self._programs = programs
        self._kernels: ModuleType | None = None
        self._warm: set[tuple[object, ...]] = set()
        self.failure: str | None = None
        self.error: Exception | None = None
        _made.append(self)

    def reduce(self, memory: Memory, lines: Sequence[int], *, is_full: bool) -> int:
        """Queue the reduction of memory into lines, given by address; return the number of lines it was queued for."""
        kernels = self._ready()
        if kernels is None:
            return 0
        dtype = memory.dtype
        least_bytes = _BLOCKS_PER_PROGRAM * kernels.BLOCK_BYTES
        programs = min(self._programs, -(-memory.size * dtype.itemsize // least_bytes))
        step = LINES
        for begin in range(0, len(lines), step):
            some = lines[begin : begin + step]
            numbers = (memory.address, memory.size, memory.repeats, *some, *(0,) * (step - len(some)))
            constants = (kernels.kind_of(dtype), _LEAST_NORMAL[dtype], memory.is_aligned, is_full)
            if not self._launch(kernels, "reduce_one", programs, numbers, constants):
                return begin
        return len(lines)

    def reduce_many(
        self,
        items: torch.Tensor,
        dtype: torch.dtype,
        *,
        is_aligned: bool,
        is_full: bool,
        is_change: bool,
    ) -> bool:
        """Queue the reduction of a table of items (`triton_lines`); return whether it was queued."""
        kernels = self._ready()
        if kernels is None:
            return False
        least_normal = _LEAST_NORMAL[dtype]
        if is_change and dtype is not torch.float64:
            least_normal = _FLOAT32_IN_FLOAT64
        constants = (kernels.kind_of(dtype), least_normal, is_aligned, is_full, is_change)
        return self._launch(kernels, "reduce_many", len(items), (items.data_ptr(),), constants)

    def is_capturing(self) -> bool:
        """Whether queued work is captured into a CUDA graph and does not run yet."""
        if self._device.type != "cuda":
            return False
        with _on(self._device):
            return torch.cuda.is_current_stream_capturing()

    def _ready(self) -> ModuleType | None:
        if self._kernels is None and self.failure is None:
            try:
                from gradscope.observe.cuda import kernels  # noqa: PLC0415 - loads Triton
            except Exception as error:  # noqa: BLE001 - any failure of Triton is reported, and the eager pass is used
                self._give_up(error)
            else:
                self._kernels = kernels
        return None if self.failure is not None else self._kernels

    def _launch(
        self,
        kernels: ModuleType,
        name: str,
        programs: int,
        numbers: tuple[int, ...],
        constants: tuple[object, ...],
    ) -> bool:
        variant = (name, *constants)
        if variant not in self._warm and self.is_capturing():
            return False
        try:
            with _on(self._device):
                getattr(kernels, name)[programs,](*numbers, *constants, num_warps=kernels.WARPS)
        except Exception as error:  # noqa: BLE001 - a compiler fails in many ways, and training must continue
            self._give_up(error)
            return False
        self._warm.add(variant)
        return True

    def _give_up(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
            self.failure = f"the Triton kernels failed: {type(error).__name__}: {error}"


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a device is the current one, because Triton launches there."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return nullcontext()
    return torch.cuda.device(device)
