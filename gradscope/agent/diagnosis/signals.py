"""`SignalMonitor`: reads what the columns do not have, in some observed steps, and checks it.

It reads in the second to eighth step, and then in steps that are a quarter further than the previous one, so the
checks need about 50 steps in a run of 100,000. Step 0 is left out: a model that is compiled is traced there.
"""

from collections.abc import Callable, Sequence
from typing import Final

from torch.optim import Optimizer

from gradscope.agent.diagnosis.batch_source import source_of
from gradscope.agent.diagnosis.forward_reads import ForwardReads
from gradscope.agent.diagnosis.monitor import FindingMonitor
from gradscope.agent.diagnosis.update_reads import UpdateReads
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import NEVER, StepPlugin
from gradscope.findings import Finding
from gradscope.findings.signal_facts import StepSignals
from gradscope.findings.signals import (
    find_signal_faults,
    is_collapsing,
    repeated_batch,
    repeated_steps,
)
from gradscope.hooks import has_compiled, hidden_from_modes

__all__ = ["SignalMonitor"]

_FIRST: Final = 1
_EACH_UNTIL: Final = 8
_KEPT: Final = 64
_ALSO_OF_RULES: Final = ("learning-rate-too-high", "underflow")
"""Codes that a rule may have found first, from other numbers."""
_REQUESTED: Final = 1
"""How many steps are requested at a time while an output is collapsing."""


class SignalMonitor(StepPlugin):
    """Reads signals and reports findings about them, each layer and code once."""

    name = "the signals"
    needs_observed = True

    def __init__(self, run: RunContext, engine: StepEngine, findings: FindingMonitor) -> None:
        self._run = run
        self._engine = engine
        self._findings = findings
        self._forward = ForwardReads(self._guarded)
        self._updates = UpdateReads()
        self._names: dict[int, str] = {}
        self._is_reading = self._is_off = False
        self._next = self._begins_at = engine.step + _FIRST
        self._asks_at = NEVER
        self._history: list[StepSignals] = []
        self._told: set[tuple[str, str]] = set()

    def next_active_step(self, step: int) -> int:
        """Return the step in which it asks for observed steps; otherwise it reads in observed steps only."""
        return max(step, self._asks_at)

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Install the hooks if this step is read."""
        self._forward.remove()
        if step >= self._asks_at and not self._is_off:
            self._asks_at = NEVER
            if self._run.hello.world_size == 1:  # ranks must observe the same steps
                self._run.sampler.request_steps(_REQUESTED)
                self._run.plan_again()
        model = self._run.model()
        self._is_reading = (
            is_observed
            and step >= self._next
            and model is not None
            and not self._is_off
            and not has_compiled()
        )
        if self._is_reading and model is not None:
            self._names = {id(parameter): name for name, parameter in model.named_parameters()}
            self._forward.begin(model)

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Copy samples of the parameters."""
        if self._is_reading:
            self._updates.before(optimizer, self._names)

    def after_optimizer(self, optimizer: Optimizer) -> None:  # noqa: ARG002 - as above
        """Compare the parameters with the samples."""
        if self._is_reading:
            self._updates.after()

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - as above
        """Check what was read."""
        if not self._is_reading:
            return
        self._is_reading = False
        signals = self._forward.end(step, self._updates.end())
        self._next = (
            step + max(1, (step - self._begins_at) // 4)
            if step >= self._begins_at + _EACH_UNTIL
            else step + 1
        )
        self._history.append(signals)
        self._asks_at = self._next if is_collapsing(self._history) else NEVER
        del self._history[_KEPT // 2 : -_KEPT // 2]
        self._report(find_signal_faults(self._history))
        if ("repeated-batch", "") not in self._told:
            suspects = repeated_steps(self._history)
            source = (
                source_of(max(suspects[-1].batch, key=lambda each: len(each.shape))) if suspects else ""
            )
            self._report(repeated_batch(self._history, source))

    def close(self) -> None:
        """Remove the hooks."""
        self._forward.remove()

    def _report(self, findings: Sequence[Finding]) -> None:
        """Report each code once for each first layer."""
        for found in findings:
            key = found.code, found.layers[0] if found.layers else ""
            is_known = found.code in _ALSO_OF_RULES and found.code in self._run.codes_of_rules
            if key not in self._told and not is_known:
                self._told.add(key)
                self._findings.report([found])

    def _guarded(self, read: Callable[[], None]) -> None:
        """Run a read inside the script's forward pass. On an error, read nothing any more."""
        if self._is_off:
            return
        try:
            with hidden_from_modes():
                read()
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._is_off = True
            self._run.faults.report(self.name, error, "They are not read any more; training continues.")
