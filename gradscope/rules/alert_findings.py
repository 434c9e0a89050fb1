"""The finding of an alert."""

from gradscope.findings import Finding
from gradscope.findings.codes import finding
from gradscope.rules.alerts import Alert

__all__ = ["finding_of"]

_CODES = {
    "nonfinite": "nonfinite",
    "exploding": "exploding-gradient",
    "vanishing": "vanishing-gradient",
    "spike": "gradient-spike",
    "dead": "dead-units",
    "saturated": "saturated-activation",
    "loss_spike": "loss-spike",
}


def finding_of(alert: Alert, action: str = "") -> Finding:
    """Return the finding of an alert of a rule with this action; "event" is none."""
    found = alert.finding
    side = "high" if found.value > found.limit else "low"
    return finding(
        _CODES.get(alert.rule, f"learning-rate-too-{side}"),
        f"{found.layer}: {found.words}" if found.layer else found.words,
        step=alert.step,
        since=alert.first_step,
        layers=(found.layer,) if found.layer else (),
        confidence="measured",
        evidence={"value": found.value, "limit": found.limit, "kind": found.kind},
        action="" if action == "event" else action,
    )
