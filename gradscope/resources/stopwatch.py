"""Times of each layer, forward and backward, and of each phase of a step.

Spans nest: a module inside another module, or a module that a checkpoint recomputes inside an operation's backward.
A span's own time excludes the spans inside it. Times are computed after the step, because a device reaches its marks
late.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from torch.autograd.graph import Node

from gradscope.resources.clocks import HostClock, Mark

__all__ = ["PHASES", "Phase", "StepTimes", "Stopwatch"]

Phase: TypeAlias = Literal["data", "forward", "loss", "backward", "optimizer", "other"]
PHASES: Final[tuple[Phase, ...]] = ("data", "forward", "loss", "backward", "optimizer", "other")
"""The phases of a step. `data` ends with the first forward, `loss` is between forward and backward, `other` is after
the backward and outside of the optimizer."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of one step: the own time of each layer by index, and the time of each phase."""

    forward_s: dict[int, float]
    backward_s: dict[int, float]
    calls: dict[int, int]
    phases_s: dict[str, float]


@dataclass(slots=True)
class _Span:
    layer: int
    is_backward: bool
    above: "_Span | None"
    begin: Mark
    end: Mark | None = None


class Stopwatch:
    """Times one step, from its creation to `stop`. `times` returns the result when `is_ready` is true."""

    def __init__(self, clock: HostClock) -> None:
        self.clock = clock
        self.calls: dict[int, int] = {}
        self._spans: list[_Span] = []
        self._open: dict[int, _Span] = {}
        self._phase: Phase = "data"
        self._phases: list[tuple[Phase, Mark]] = [("data", clock.mark())]
        self._ended: dict[int, _Span] = {}
        self._backward_end: Mark | None = None
        self._end: Mark | None = None

    @property
    def is_running(self) -> bool:
        """Whether `stop` has not been called."""
        return self._end is None

    def enter(self, layer: int, *, is_backward: bool) -> None:
        """Begin a span in this thread."""
        thread = threading.get_ident()
        span = _Span(layer, is_backward, self._open.get(thread), self.clock.mark())
        self._open[thread] = span

    def leave(self, layer: int) -> None:
        """End this thread's innermost span of that layer. Unfinished spans inside it are dropped."""
        end = self.clock.mark()
        thread = threading.get_ident()
        span = self._open.get(thread)
        while span is not None and span.layer != layer:
            span = span.above
        if span is None:
            return
        span.end = end
        self._spans.append(span)
        if span.above is None:
            self._open.pop(thread, None)
        else:
            self._open[thread] = span.above

    def begin_phase(self, phase: Phase) -> None:
        """Begin a phase of the step. The time after the last operation of a backward counts as `other`."""
        if phase == self._phase:
            return
        if self._phase == "backward" and self._backward_end is not None:
            self._phases.append(("data" if phase == "forward" else "other", self._backward_end))
        self._phase = phase
        self._ended.clear()
        self._phases.append((phase, self.clock.mark()))

    def time_backward(
        self, nodes: Sequence[Node], layers: Sequence[int], after: Callable[[], None] | None = None
    ) -> None:
        """Time the operations of a graph when their backward runs. The nodes are not held.

        after: called after the backward of each operation. Its exceptions reach the training.
        """
        hooks: dict[int, tuple[Callable[[object], None], Callable[[object, object], None]]] = {}
        for node, layer in zip(nodes, layers, strict=True):
            pair = hooks.get(layer)
            if pair is None:
                timer = _NodeTimer(self, layer, after)
                pair = hooks[layer] = timer.begin, timer.end
            node.register_prehook(pair[0])
            node.register_hook(pair[1])

    def layer_in_backward(self) -> int:
        """Return the layer of the innermost open span of a backward pass; -1 if none is open."""
        spans = [span for span in list(self._open.values()) if span.is_backward]
        return spans[-1].layer if spans else -1

    def begin_backward(self, layer: int) -> None:
        """Begin the backward of an operation.

        The time since the previous operation in this thread is counted for the previous operation, because autograd
        accumulates the gradients of its parameters then.
        """
        self.begin_phase("backward")
        thread = threading.get_ident()
        self.enter(layer, is_backward=True)
        span = self._open[thread]
        before = self._ended.pop(thread, None)
        if before is not None and before.above is span.above and before.end is not None:
            self._spans.append(_Span(before.layer, True, span.above, before.end, span.begin))

    def end_backward(self, layer: int) -> None:
        """End the backward of an operation."""
        thread = threading.get_ident()
        span = self._open.get(thread)
        self.leave(layer)
        if span is not None and span.layer == layer:
            self._ended[thread], self._backward_end = span, span.end

    def stop(self) -> None:
        """End the step."""
        self.begin_phase("other")
        self._end = self.clock.mark()
        self._open.clear()

    def is_ready(self) -> bool:
        """Whether `times` can be called without waiting."""
        return self._end is not None and self.clock.is_ready(self._end)

    def times(self) -> StepTimes:
        """Return the times. Call it only if `is_ready`."""
        own: dict[bool, dict[int, float]] = {False: {}, True: {}}
        for span, seconds in self._durations():
            into = own[span.is_backward]
            into[span.layer] = into.get(span.layer, 0.0) + seconds
            above = span.above
            if above is not None and above.end is not None:
                into = own[above.is_backward]
                into[above.layer] = into.get(above.layer, 0.0) - seconds
        return StepTimes(own[False], own[True], self.calls, self._phase_times())

    def _durations(self) -> Iterator[tuple[_Span, float]]:
        for span in self._spans:
            if span.end is not None:
                yield span, self.clock.seconds(span.begin, span.end)

    def _phase_times(self) -> dict[str, float]:
        times: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        ends = [mark for _, mark in self._phases[1:]]
        if self._end is not None:
            ends.append(self._end)
        for (phase, begin), end in zip(self._phases, ends, strict=False):
            times[phase] += self.clock.seconds(begin, end)
        return times


class _NodeTimer:
    """The two hooks on a layer's operations. They return nothing, and do nothing after the end of the step."""

    __slots__ = ("_after", "_layer", "_watch")
    __torch_unserializable__ = True

    def __init__(self, watch: Stopwatch, layer: int, after: Callable[[], None] | None) -> None:
        self._watch = watch
        self._layer = layer
        self._after = after

    def begin(self, _gradients: object) -> None:
        """Begin timing, before the operation's backward."""
        if self._watch.is_running:
            self._watch.clock.pause()
            self._watch.begin_backward(self._layer)
            self._watch.clock.resume()

    def end(self, _given: object, _gradients: object) -> None:
        """End timing, after the operation's backward.

        `after` is called first: its exception belongs to this operation.
        """
        if not self._watch.is_running:
            return
        if self._after is not None:
            self._after()
        self._watch.clock.pause()
        self._watch.end_backward(self._layer)
        self._watch.clock.resume()
