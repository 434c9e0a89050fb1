"""`ScalerSkips`: which parameters made a GradScaler skip a step, how often and since when."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent.diagnosis.monitor import FindingMonitor
from gradscope.agent.flight_recorder.recorder import FlightRecorder
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.findings.codes import finding
from gradscope.hooks import LossScalerHook, parameters_of
from gradscope.observe import numbers_of_gradient

__all__ = ["ScalerSkips"]

_LASTING: Final = 10
"""Skipped steps in a row that are a warning: the scale has then fallen to a thousandth without effect."""

_START: Final = 2.0**16 / 2**_LASTING
"""A scaler finds its scale by skipping its first steps. From PyTorch's initial scale, 2^16, ten skips lead here."""

_NEEDED: Final = 1.0
"""With a smaller scale the gradients overflow although they are scaled down."""


class ScalerSkips(StepPlugin):
    """Counts the skipped steps of the model's optimizers. Active from `install` to `close`."""

    name = "the check of the loss scaler"

    def __init__(
        self, run: RunContext, engine: StepEngine, recorder: FlightRecorder, findings: FindingMonitor
    ) -> None:
        self._run = run
        self._engine = engine
        self._recorder = recorder
        self._findings = findings
        self._hook = LossScalerHook(self._on_scale, self._on_step)
        self._first: Counter[str] = Counter()
        self._skips = self._in_row = self._steps = 0
        self._since = self._step = -1
        self._is_lasting = False

    def next_active_step(self, step: int) -> int | None:  # noqa: ARG002 - the signature of a plugin
        """Return None: it has no work in steps."""
        return None

    def install(self) -> None:
        """Install the hook."""
        self._hook.install()

    def close(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def check_gradients(self, step: int, optimizer: Optimizer) -> None:
        """Note that a fused optimizer skips this step, which ends before the scaler's own step."""
        found = getattr(optimizer, "found_inf", None)
        if found is not None and found.is_cpu and bool(found):
            self._run.scaler_skipped_step = self._step = step

    def _on_scale(self, _scaler: GradScaler, _loss: object) -> None:
        self._recorder.has_scaler = True
        self._step = -1

    def _on_step(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        try:
            owned = {id(p) for p in self._engine.tracker.parameters()}
            parameters = [p for p in parameters_of(optimizer) if id(p) in owned]
            if parameters:
                self._count(scaler, optimizer, parameters)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._hook.remove()
            self._run.faults.report(self.name, error, "It is off; training continues.")

    def _count(
        self, scaler: GradScaler, optimizer: Optimizer, parameters: Sequence[torch.nn.Parameter]
    ) -> None:
        self._steps += 1
        found: dict[Any, torch.Tensor] = scaler._found_inf_per_device(optimizer)  # noqa: SLF001 - what torch's own optimizers read
        is_read = all(each.is_cpu for each in found.values()) or not getattr(
            optimizer, "_step_supports_amp_scaling", False
        )
        if not is_read:  # reading it would wait for the device
            return
        if not any(bool(each) for each in found.values()):
            self._in_row, self._is_lasting = 0, False
            return
        model = self._run.model()
        names = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        bad = [names.get(id(p), "") for p in parameters if _is_nonfinite(p)]
        self._skips += 1
        self._in_row += 1
        step = self._run.counter.step if self._step < 0 else self._step
        self._run.scaler_skipped_step = step
        self._since = step if self._since < 0 else self._since
        self._first[bad[-1] if bad else ""] += 1
        if self._recorder.sees_more_than_gradients:
            self._recorder.report(step, bad, "the loss scaler skips the step")
            return
        self._recorder.dismiss()
        scale = float(scaler.get_scale())
        is_lasting = self._in_row >= _LASTING and (self._skips < self._steps or scale <= _START)
        if (is_lasting and not self._is_lasting) or (scale < _NEEDED and self._in_row > 1):
            self._is_lasting = True
            self._report(step, scale, bad, is_lasting=True)
        elif self._skips == 1:
            self._report(step, scale, bad, is_lasting=False)

    def _report(self, step: int, scale: float, bad: Sequence[str], *, is_lasting: bool) -> None:
        first, count = self._first.most_common(1)[0]
        layer, _, _ = first.rpartition(".")
        times = f"{self._skips} of {self._steps} steps" if self._steps > 1 else "its first step"
        row = f", {self._in_row} in a row" if self._in_row > 1 else ""
        which = f"in the backward pass the gradient of `{first}` overflows first" if first else ""
        words = [f"the loss scaler has skipped {times}{row}, at a scale of {scale:g}"]
        words += (
            [which + (f" ({count} of {self._skips} times)" if self._skips > 1 else "")] if first else []
        )
        evidence: dict[str, float | str] = {
            "skipped_steps": self._skips,
            "skipped_in_row": self._in_row,
            "steps": self._steps,
            "scale": scale,
            "parameter": first,
            "nonfinite_gradients": len(bad),
        }
        if is_lasting:
            _, found = self._recorder.trace()
            if found.origin is not None:
                words.append(f"it arises in {found.origin.operation_words}")
                evidence |= found.origin.evidence()
        made = finding(
            "scaler-skip",
            "; ".join(words),
            step=step,
            since=self._since,
            layers=(layer,) if layer else (),
            severity="warning" if is_lasting else "hint",
            confidence="measured",
            evidence=evidence,
        )
        self._findings.report([made])


def _is_nonfinite(parameter: torch.nn.Parameter) -> bool:
    if parameter.grad is None:
        return False
    return not bool(torch.isfinite(numbers_of_gradient(parameter)).all())
