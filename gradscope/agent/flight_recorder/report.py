"""The finding `nonfinite` of a replay."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gradscope.agent.flight_recorder.origin import Origin
from gradscope.agent.flight_recorder.replay import Replay
from gradscope.findings import Finding
from gradscope.findings.codes import finding

__all__ = ["finding_of_replay"]

_SHOWN: Final = 3

_CAUSES: Final = {
    "input": "The data contain it: a missing value, a division in the preprocessing, or a corrupt file.",
    "forward": "The operands of this operation have no finite result.",
    "loss": "The operands of this operation of the loss have no finite result.",
    "backward": "The derivative of this operation is not finite there, although its result was.",
    "optimizer": "An earlier update wrote it, or the initialization did.",
}
_FIXES: Final = {
    "input": "Check the data of this batch: torch.isfinite(x).all() before the model.",
    "forward": "Keep the operands away from that value (clamp, add an epsilon), or compute in a wider dtype.",
    "loss": "Use the loss of torch.nn.functional that takes logits, or keep the operands away from that value.",
    "backward": "Keep the operands away from that value before the operation: a torch.where after it does not help, "
    "because its gradient is 0 times infinity.",
    "optimizer": "Start again from a checkpoint that is finite; look at the learning rate.",
}


def finding_of_replay(
    found: Replay, *, step: int, parameters: Sequence[str], note: str, is_first_check: bool
) -> Finding:
    """Return the finding for a step whose gradients are not finite.

    parameters: names of those gradients. note: a clause about what becomes of the step, or empty.
    is_first_check: whether the previous step was checked as well.
    """
    origin = found.origin
    evidence: dict[str, float | str] = {"nonfinite_gradients": len(parameters)}
    if parameters:
        evidence["parameters"] = ", ".join(parameters[:_SHOWN])
    message = _words(origin, step) if origin is not None else _unknown(found, step, parameters)
    made = finding(
        "nonfinite",
        message + (f"; {note}" if note else ""),
        cause=None if origin is None else _CAUSES[origin.place],
        fix=None if origin is None else _FIXES[origin.place],
        step=step,
        since=step if is_first_check else None,
        layers=(origin.layer,) if origin is not None and origin.layer else (),
        where=""
        if origin is None or origin.line is None
        else f"{origin.line.file}:{origin.line.number}",
        confidence="measured",
        evidence=evidence
        | ({"not_traced": found.reason} if origin is None else dict(origin.evidence())),
    )
    return replace(made, place="" if origin is None else origin.place)


def _words(origin: Origin, step: int) -> str:
    what = "NaN" if origin.what == "NaN" else "an infinity"
    count = f"{origin.count:,} of {origin.total:,} elements"
    if origin.place == "input":
        at = f", which is passed at {origin.line}" if origin.line is not None else ""
        return f"the model's {origin.detail} contains {what} in step {step} ({count}){at}"
    if origin.place == "optimizer":
        name = ".".join(part for part in (origin.layer, origin.detail) if part)
        return f"the parameter {name} contains {what} before step {step} ({count})"
    if origin.place == "loss":
        return f"{what} arises in the loss in step {step}: {origin.operation_words}; the model's output is finite"
    layer = f"`{origin.layer}`" if origin.layer else "the model itself"
    finite = "its input was finite" if origin.place == "forward" else "the forward pass was finite"
    return f"{what} arises in the {origin.place} pass of {layer} in step {step}: {origin.operation_words}; {finite}"


def _unknown(found: Replay, step: int, parameters: Sequence[str]) -> str:
    rest = len(parameters) - _SHOWN
    shown = ", ".join(parameters[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    what = f"the gradients of {shown} are" if parameters else "the model's output is"
    why = f": {found.reason}" if found.reason else ""
    return f"{what} not finite in step {step}; the origin is not known{why}"
