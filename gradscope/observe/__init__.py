"""Measuring: tensors reduced to rows, which steps to observe, and what that costs."""

from gradscope.observe.activations import ActivationObserver, LayerSlot, Token
from gradscope.observe.board import Board, Harvest
from gradscope.observe.finite import find_nonfinite, has_numbers
from gradscope.observe.native import pass_name
from gradscope.observe.parameters import ParameterObserver
from gradscope.observe.reduction import (
    DEVICE_COLUMNS,
    Record,
    Unmeasurable,
    reduce_on_device,
    reduce_on_host,
)
from gradscope.observe.sampler import Sampler

__all__ = [
    "DEVICE_COLUMNS",
    "ActivationObserver",
    "Board",
    "Harvest",
    "LayerSlot",
    "ParameterObserver",
    "Record",
    "Sampler",
    "Token",
    "Unmeasurable",
    "find_nonfinite",
    "has_numbers",
    "pass_name",
    "reduce_on_device",
    "reduce_on_host",
]
