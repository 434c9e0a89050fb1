"""The cost budget of monitoring, and the choice of observed steps within it."""

from gradscope.budget.budget import (
    DEFAULT_FRACTION,
    OBSERVED_AT_START,
    Budget,
    Consumer,
    RateLimit,
    interval,
)
from gradscope.budget.sampler import Sampler

__all__ = [
    "DEFAULT_FRACTION",
    "OBSERVED_AT_START",
    "Budget",
    "Consumer",
    "RateLimit",
    "Sampler",
    "interval",
]
