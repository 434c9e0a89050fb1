"""Measuring: tensors reduced to rows, which steps to observe, and what that costs."""

from gradscope.observe.activations import ActivationObserver, LayerSlot, See, Token
from gradscope.observe.board import Board, Harvest
from gradscope.observe.finite import make_find_nonfinite, numbers_of_gradient
from gradscope.observe.native import native_module, pass_name
from gradscope.observe.parameters import ParameterObserver
from gradscope.observe.quick import NOBODY_LOOKS_ON
from gradscope.observe.reduction import (
    DEVICE_COLUMNS,
    DeviceRecord,
    Record,
    Unmeasurable,
    reduce_on_device,
    reduce_on_host,
)
from gradscope.observe.sampler import Sampler
from gradscope.observe.triton_pass import device_pass_name, failed_pass

__all__ = [
    "DEVICE_COLUMNS",
    "NOBODY_LOOKS_ON",
    "ActivationObserver",
    "Board",
    "DeviceRecord",
    "Harvest",
    "LayerSlot",
    "ParameterObserver",
    "Record",
    "Sampler",
    "See",
    "Token",
    "Unmeasurable",
    "device_pass_name",
    "failed_pass",
    "make_find_nonfinite",
    "native_module",
    "numbers_of_gradient",
    "pass_name",
    "reduce_on_device",
    "reduce_on_host",
]
