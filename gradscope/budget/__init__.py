"""What monitoring may cost, and which steps are observed within it."""

from gradscope.budget.budget import DEFAULT_FRACTION, Budget, Consumer, RateLimit, interval
from gradscope.budget.sampler import Sampler

__all__ = ["DEFAULT_FRACTION", "Budget", "Consumer", "RateLimit", "Sampler", "interval"]
