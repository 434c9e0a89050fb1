"""`RuleFinding`: what a rule sees in one step. `Alert`: a finding that a rule reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradscope.findings import Severity

__all__ = ["Alert", "RuleFinding"]


@dataclass(frozen=True, slots=True)
class RuleFinding:
    """A value beyond the limit of a rule, in one step.

    `layer` is empty if the value belongs to no layer (the loss, for example). `kind` is the kind of the
    row, or the name of a scalar. `limit` is the allowed value. `form` is a format string for `values`;
    it names neither layer nor step nor rule. It is formatted only for the few findings that are reported.

    weight: how much of the evidence that a report needs this step gives; 1 is enough by itself.
    code: the code of the finding; empty: that of the rule. severity: None: that of the code.
    layers: all layers concerned, the most responsible first; empty: only `layer`.
    evidence: further numbers, named, with units.
    """

    layer: str
    kind: str
    value: float
    limit: float
    form: str
    values: tuple[object, ...] = ()
    weight: float = field(default=1.0, kw_only=True)
    code: str = field(default="", kw_only=True)
    severity: Severity | None = field(default=None, kw_only=True)
    layers: tuple[str, ...] = field(default=(), kw_only=True)
    evidence: Mapping[str, float | str] = field(default_factory=dict, kw_only=True)

    @property
    def words(self) -> str:
        """The finding as text, without the layer."""
        return self.form.format(*self.values)


@dataclass(frozen=True, slots=True)
class Alert:
    """A finding that a rule reports in `step`, and that has been there since `first_step`."""

    rule: str
    step: int
    first_step: int
    finding: RuleFinding

    @property
    def text(self) -> str:
        """The alert as one line."""
        where = f"{self.finding.layer}: " if self.finding.layer else ""
        since = "" if self.first_step == self.step else f", since step {self.first_step}"
        return f"{where}{self.finding.words}{since}"
