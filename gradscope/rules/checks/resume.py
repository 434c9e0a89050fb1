"""Compares the first steps of a resumed run with what its earlier recording leads to expect."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gradscope.findings import Finding, Severity, finding

__all__ = ["EarlierRun", "FirstSteps", "StepOfRun", "find_resume_mismatch"]

_SLACK: Final = 10.0
"""Parameters may have moved this many times as far as the update of an observed step suggests for the steps between."""

_LEAST_MOVE: Final = 1e-3
_JUMP: Final = 2.0
"""A schedule changes the learning rate by less than this factor from a step to the next ones."""

_LOSSES: Final = 20


@dataclass(frozen=True, slots=True)
class StepOfRun:
    """What is compared of one observed step.

    parameters, updates: (sum, norm, digest or None) of each parameter by name; of the parameter before the step, and of
    its change (its digest: of the parameter after the step). inputs: digests; empty if unknown. has_state: the
    number of parameters with an optimizer state before the step; None if unknown.
    """

    step: int
    parameters: Mapping[str, tuple[float, float, int | None]] = field(default_factory=dict)
    updates: Mapping[str, tuple[float, float, int | None]] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    learning_rate: float | None = None
    has_state: int | None = None


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """The first observed steps of the resumed process, and their losses. `start_step` as given to `attach`."""

    start_step: int
    steps: Sequence[StepOfRun]
    losses: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """The earlier recording. losses and learning_rates: by step. last_step: the last step that ended."""

    steps: Sequence[StepOfRun]
    losses: Mapping[int, float]
    learning_rates: Mapping[int, float]
    last_step: int


@dataclass(frozen=True, slots=True)
class _Mismatch:
    what: str
    text: str
    severity: Severity = "warning"


def find_resume_mismatch(resumed: FirstSteps, earlier: EarlierRun) -> Finding | None:
    """Return one finding that names everything that is not as expected; None if nothing is."""
    if not resumed.steps or not earlier.steps:
        return None
    found = list(_mismatches(resumed, earlier))
    if not found:
        return None
    severities: list[Severity] = [each.severity for each in found]
    return finding(
        "resume-mismatch",
        f"resumed at {resumed.start_step:,}: {'; '.join(each.text for each in found)}",
        step=resumed.steps[-1].step,
        since=resumed.steps[0].step,
        severity="warning" if "warning" in severities else "hint",
        evidence={
            "mismatches": ", ".join(each.what for each in found),
            "start_step": float(resumed.start_step),
            "earlier_last_step": float(earlier.last_step),
        },
    )


def _mismatches(resumed: FirstSteps, earlier: EarlierRun) -> Iterator[_Mismatch]:
    first = resumed.steps[0]
    parameters = _parameters(first, earlier)
    if parameters is not None:
        yield parameters
    elif resumed.start_step > earlier.last_step + 1:
        yield _Mismatch(
            "step",
            f"the earlier run ended after step {earlier.last_step:,}, so no checkpoint of step {resumed.start_step:,} "
            "can come from it",
            "hint",
        )
    yield from _optimizer_state(first, earlier)
    yield from _learning_rate(first, earlier)
    yield from _data(resumed, earlier)
    if parameters is None or parameters.what != "parameters":
        yield from _loss(resumed, earlier)


def _parameters(first: StepOfRun, earlier: EarlierRun) -> _Mismatch | None:
    """Compare the parameters: with those of the same step, of the end of the step before, or of steps nearby."""
    same = _step_with_parameters(first, earlier)
    if same == first.step:
        return None
    if same is not None:
        where = "the initial ones" if same == 0 else f"those of step {same:,}"
        return _Mismatch(
            "parameters" if same == 0 else "step", f"the parameters are {where} of the earlier run"
        )
    before = [each for each in earlier.steps if each.step <= first.step and each.parameters]
    if not before:
        return None
    last = before[-1]
    if _can_compare_exactly(first, last) and first.step in (last.step, last.step + 1):
        return _Mismatch(
            "parameters", f"the parameters are not those of step {last.step:,} of the earlier run"
        )
    name, distance, expected = _farthest(first, last)
    if distance <= expected:
        return None
    return _Mismatch(
        "parameters",
        f"the parameters are not those of the earlier run: `{name}` is {distance:.2g} of its norm away from step "
        f"{last.step:,}, where at most {expected:.2g} is plausible",
    )


def _step_with_parameters(first: StepOfRun, earlier: EarlierRun) -> int | None:
    """Return the step of the earlier run at whose beginning the parameters had the same bits; None if none is known."""
    wanted = {name: digest for name, (_, _, digest) in first.parameters.items()}
    if not wanted or None in wanted.values():
        return None
    found = [
        step
        for each in earlier.steps
        for step, numbers in ((each.step, each.parameters), (each.step + 1, each.updates))
        if numbers
        and all(name in numbers and numbers[name][2] == digest for name, digest in wanted.items())
    ]
    return first.step if first.step in found else max(found, default=None)


def _can_compare_exactly(first: StepOfRun, last: StepOfRun) -> bool:
    numbers = last.parameters if last.step == first.step else last.updates
    return bool(first.parameters) and all(
        digest is not None and name in numbers and numbers[name][2] is not None
        for name, (_, _, digest) in first.parameters.items()
    )


def _farthest(first: StepOfRun, last: StepOfRun) -> tuple[str, float, float]:
    """Return the parameter that is farthest beyond what is plausible, its distance, and the plausible one.

    The distance is the change of the sum or of the norm, divided by the norm: what a change of that size at most shows.
    """
    worst, ratio = ("", 0.0, 1.0), -1.0
    steps = first.step - last.step + 1
    for name, (total, norm, _) in first.parameters.items():
        if name not in last.parameters or not last.parameters[name][1]:
            continue
        total_before, norm_before, _ = last.parameters[name]
        distance = max(abs(total - total_before), abs(norm - norm_before)) / norm_before
        update = last.updates.get(name, (0.0, 0.0, None))[1] / norm_before
        expected = _LEAST_MOVE + _SLACK * steps * update
        if distance / expected > ratio:
            worst, ratio = (name, distance, expected), distance / expected
    return worst


def _optimizer_state(first: StepOfRun, earlier: EarlierRun) -> Iterator[_Mismatch]:
    counts = [each.has_state for each in earlier.steps if each.has_state]
    if not counts or first.has_state is None:
        return
    usual = max(counts)
    if first.has_state == 0:
        yield _Mismatch("optimizer-state", "optimizer state is missing")
    elif first.has_state < usual:
        text = f"the optimizer has a state for {first.has_state} of {usual} parameters"
        yield _Mismatch("optimizer-state", text)


def _learning_rate(first: StepOfRun, earlier: EarlierRun) -> Iterator[_Mismatch]:
    rates = {step: rate for step, rate in earlier.learning_rates.items() if step <= first.step}
    if first.learning_rate is None or not rates:
        return
    last = max(rates)
    before, now = rates[last], first.learning_rate
    if now == before or (now > 0 and before > 0 and 1 / _JUMP < now / before < _JUMP):
        return
    start = rates[min(rates)]
    more = ", the one that the earlier run began with" if now == start and len(rates) > 1 else ""
    yield _Mismatch(
        "learning-rate", f"the learning rate is {now:g}{more}; it was {before:g} in step {last:,}"
    )


def _data(resumed: FirstSteps, earlier: EarlierRun) -> Iterator[_Mismatch]:
    first, begin = resumed.steps[0], earlier.steps[0]
    if not first.inputs or first.inputs != begin.inputs or begin.step >= first.step:
        return
    seen_again = any(each.inputs == begin.inputs for each in earlier.steps[1:])
    if not seen_again:  # else the batch is the only one, or comes again in each epoch
        text = f"the data begins again: the first batch is the same as in step {begin.step:,} of the earlier run"
        yield _Mismatch("data-position", text)


def _loss(resumed: FirstSteps, earlier: EarlierRun) -> Iterator[_Mismatch]:
    before = [loss for step, loss in sorted(earlier.losses.items()) if step < resumed.start_step][
        -_LOSSES:
    ]
    now = list(resumed.losses)
    if len(before) < _LOSSES // 2 or len(now) < 3 or not all(map(math.isfinite, [*before, *now])):
        return
    usual = statistics.median(before)
    spread = max(before) - min(before)
    if min(now) > max(before) + 2 * spread and min(now) > max(before) + abs(usual):
        yield _Mismatch(
            "loss",
            f"the loss is {statistics.median(now):.3g}; it was {usual:.3g} in the {len(before)} steps before",
        )
