"""The cost budget of monitoring, and the choice of observed steps within it."""

from gradscope.budget.budget import DEFAULT_FRACTION, Budget, Consumer, RateLimit, interval
from gradscope.budget.sampler import Sampler

__all__ = ["DEFAULT_FRACTION", "Budget", "Consumer", "RateLimit", "Sampler", "interval"]
