"""`time_function`: times a function and a reference, interleaved in one run."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.doctor.subject.subject import Examinable, resolve, tensors_of
from gradscope.errors import UsageError

__all__ = ["Timing", "time_function"]

_WARM_UP: Final = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Median times in seconds of one forward and one backward, for a function and its reference."""

    forward_s: float
    backward_s: float
    reference_forward_s: float
    reference_backward_s: float
    repeats: int

    @property
    def ratio(self) -> float:
        """The time of forward and backward, divided by that of the reference."""
        return (self.forward_s + self.backward_s) / (
            self.reference_forward_s + self.reference_backward_s
        )

    def __str__(self) -> str:
        return (
            f"forward {_ms(self.forward_s)}, backward {_ms(self.backward_s)} ms; the reference "
            f"{_ms(self.reference_forward_s)} and {_ms(self.reference_backward_s)} ms: "
            f"{self.ratio:.2f} times as long"
        )


def time_function(
    function: Examinable, reference: Callable[..., object], *inputs: object, repeats: int = 20
) -> Timing:
    """Time forward and backward of a function and of a reference on the same inputs.

    The two alternate, so that other load on the machine affects both equally.

    Raises UsageError if no input can have a gradient, or if `repeats` is less than 1.
    """
    if repeats < 1:
        raise UsageError(
            f"time_function expected repeats of at least 1, got {repeats}; leave it out for 20"
        )
    subject = resolve(function, inputs, None)
    tensors = {
        leaf.position: leaf.value.detach().requires_grad_(leaf.is_needed) for leaf in subject.leaves
    }
    arguments = [tensors.get(i, a) for i, a in enumerate(subject.arguments)]
    given = arguments[: len(inputs)]
    other = (
        reference.apply
        if isinstance(reference, type) and issubclass(reference, Function)
        else reference
    )
    ours, theirs = _Clock(subject.call, arguments), _Clock(other, given)
    for turn in range(_WARM_UP + repeats):
        for clock in (ours, theirs):
            clock.once(is_counted=turn >= _WARM_UP)
    return Timing(*ours.medians(), *theirs.medians(), repeats)


class _Clock:
    """Records the times of one callable."""

    def __init__(self, call: Callable[..., object], arguments: Sequence[object]) -> None:
        self._call, self._arguments = call, arguments
        self._forward_s: list[float] = []
        self._backward_s: list[float] = []

    def once(self, *, is_counted: bool) -> None:
        """Run forward and backward once."""
        arguments = [a.clone() if isinstance(a, Tensor) else a for a in self._arguments]
        start = _now()
        outputs = [y for y in tensors_of(self._call(*arguments)) if y.requires_grad]
        between = _now()
        leaves = [a for a in self._arguments if isinstance(a, Tensor) and a.requires_grad]
        if outputs:
            torch.autograd.grad(
                outputs, leaves, [torch.ones_like(y) for y in outputs], allow_unused=True
            )
        if is_counted:
            self._forward_s.append(between - start)
            self._backward_s.append(_now() - between)

    def medians(self) -> tuple[float, float]:
        """Return the median times of forward and backward, in seconds."""
        return statistics.median(self._forward_s), statistics.median(self._backward_s)


def _now() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.cuda.synchronize()
    return time.perf_counter()


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"
