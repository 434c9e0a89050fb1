"""How much a value beyond a limit proves.

The logarithm of a value of one batch scatters around its level; call the deviation `spread`. If the level is
at the limit, a value x deviations beyond it has the likelihood ratio exp(x^2 / 2) against a level at x. These
ratios multiply over steps, so x^2 / 2 adds up. A report needs a likelihood ratio of 10,000, because a run
compares some thousand values (layers by steps) with limits. One step gives at most half, because one batch may be
unlike all others.
"""

import math

__all__ = ["weight_of"]

_NEEDED = math.log(1e4)
_MOST = 0.5


def weight_of(decades: float, spread: float) -> float:
    """Return the part of the needed evidence that one step gives.

    decades: how far the value is beyond its limit, as a base-10 logarithm. spread: the usual deviation of
    that logarithm from batch to batch.
    """
    if not decades > 0:
        return 0.0
    return min(_MOST, (decades / spread) ** 2 / 2.0 / _NEEDED)
