"""Statistics of tensors: each tensor is reduced to one row of columns, each step to a block of rows."""

from gradscope.native import native_module, pass_name
from gradscope.observe.activations import ActivationObserver, LayerSlot, RecordOutput, Token
from gradscope.observe.cuda.launcher import device_pass_name, failed_pass
from gradscope.observe.digests import digest_of
from gradscope.observe.native_hooks import NO_ACTIVE_MODES
from gradscope.observe.nonfinite import has_numbers, make_find_nonfinite, numbers_of_gradient
from gradscope.observe.parameters import ParameterObserver
from gradscope.observe.reduction import (
    DEVICE_COLUMNS,
    DeviceRecord,
    Record,
    Unmeasurable,
    reduce_on_device,
    reduce_on_host,
)
from gradscope.observe.row_buffer import Readout, RowBuffer

__all__ = [
    "DEVICE_COLUMNS",
    "NO_ACTIVE_MODES",
    "ActivationObserver",
    "DeviceRecord",
    "LayerSlot",
    "ParameterObserver",
    "Readout",
    "Record",
    "RecordOutput",
    "RowBuffer",
    "Token",
    "Unmeasurable",
    "device_pass_name",
    "digest_of",
    "failed_pass",
    "has_numbers",
    "make_find_nonfinite",
    "native_module",
    "numbers_of_gradient",
    "pass_name",
    "reduce_on_device",
    "reduce_on_host",
]
