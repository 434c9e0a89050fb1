"""Observed steps: pending until their statistics are copied from the device, then complete."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from gradscope.agent.link.messages import bins_packer
from gradscope.agent.observation.loss_scale import LossScaleCorrection
from gradscope.agent.observation.replicas import Replicas
from gradscope.budget import Sampler
from gradscope.columns import Block, Table
from gradscope.observe import Readout
from gradscope.protocol import Step, StepFacts
from gradscope.protocol.bodies import pack_block

__all__ = ["MeasuredStep", "ObservedStep", "PendingStep", "PendingSteps", "step_message"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """A step with statistics of all layers, or of the layers in the focus.

    names: the layers that the rows' indices refer to, as in the manifest with this `revision`.
    time_s: when the step ended, in seconds since 1970.
    step_time_s: the duration of the step, in seconds.
    """

    names: tuple[str, ...]
    revision: int
    step: int
    time_s: float
    step_time_s: float
    layers: Literal["all", "focus"]

    @property
    def is_focus(self) -> bool:
        """Whether only the layers in the focus were observed."""
        return self.layers == "focus"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStep(MeasuredStep):
    """A step whose statistics are complete.

    every: the number of steps since the previous observed step; for the first one, the planned interval. For a
        focus step, since the previous step in which its layers were observed.
    cost: the fraction of training time that observing takes; None while unknown. For a focus step, that of the focus.
    """

    every: int
    cost: float | None
    block: Block

    def table(self, rank: int) -> Table:
        """Return the step as a table of layers."""
        return Table(self.step, self.names, self.block, every=self.every, cost=self.cost, ranks=(rank,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingStep(MeasuredStep):
    """A step that has ended; its statistics may not have been copied from the device yet."""

    readout: Readout
    correction: LossScaleCorrection
    replicas: Replicas

    def observed(self, every: int, cost: float | None) -> ObservedStep:
        """Return the complete step. Waits for the device if necessary."""
        common: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(MeasuredStep)
        }
        block = self.replicas.marked(self.correction.apply(self.readout.block()))
        return ObservedStep(**common, every=every, cost=cost, block=block)


class PendingSteps:
    """The steps whose statistics are being copied from the device, oldest first."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._steps: deque[PendingStep] = deque()
        self._observed: int | None = None
        self._measured: int | None = None
        """The newest observed step, and the newest observed or focus step."""

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: PendingStep) -> None:
        """Add a step that has ended."""
        self._steps.append(step)

    def take_ready(self, *, wait: bool = False) -> Iterator[ObservedStep]:
        """Yield the steps whose statistics are on the host, or all steps if `wait`."""
        while self._steps and (wait or self._steps[0].readout.is_ready()):
            pending, sampler = self._steps.popleft(), self._sampler
            if pending.is_focus:
                planned, cost = max(1, sampler.focus_every), sampler.focus_cost()
                previous, is_first = self._measured, self._measured == self._observed
            else:
                planned, cost = sampler.every, sampler.cost()
                previous, is_first = self._observed, False
                self._observed = pending.step
            self._measured = pending.step
            every = planned if previous is None else pending.step - previous
            yield pending.observed(min(planned, every) if is_first else every, cost)


def step_message(
    run: str,
    rank: int,
    seq: int,
    dropped: int,
    observed: ObservedStep,
    facts: StepFacts | None = None,
) -> Step:
    """Return an observed step or a focus step as a message."""
    columns, zero, body = pack_block(observed.block, bins_packer())
    return Step(
        run=run,
        rank=rank,
        seq=seq,
        step=observed.step,
        time_s=observed.time_s,
        manifest_revision=observed.revision,
        kinds=observed.block.kinds,
        rows=len(observed.block),
        columns=columns,
        zero=zero,
        layers=observed.layers,
        step_time_s=observed.step_time_s,
        every=observed.every,
        cost=observed.cost,
        dropped=dropped,
        facts=facts,
        body=body,
    )
