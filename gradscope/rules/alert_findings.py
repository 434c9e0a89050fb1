"""The finding of an alert."""

from gradscope.findings import Finding, finding
from gradscope.rules.alerts import Alert
from gradscope.rules.table import rule_kind

__all__ = ["finding_of"]


def finding_of(alert: Alert, action: str = "") -> Finding:
    """Return the finding of an alert of a rule with this action; "event" is none."""
    found = alert.finding
    return finding(
        found.code or rule_kind(alert.rule).code,
        f"`{found.layer}`: {found.words}" if found.layer else found.words,
        step=alert.step,
        since=alert.first_step,
        layers=found.layers or ((found.layer,) if found.layer else ()),
        severity=found.severity,
        confidence="measured",
        evidence={"value": found.value, "limit": found.limit, "kind": found.kind, **found.evidence},
        action="" if action == "event" else action,
    )
