"""`Finding`: what a check saw in one step. `Alert`: what has been so for long enough to be told."""

from dataclasses import dataclass

__all__ = ["Alert", "Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer's number beyond a rule's threshold, in one step.

    `layer` is empty for what belongs to no layer, as the loss does. `kind` is that of the row, or the
    name of a scalar. `limit` is what was allowed. `form` with its `values` says it, without naming
    layer, step or rule; it is put into words only when it is told, which few findings are.
    """

    layer: str
    kind: str
    value: float
    limit: float
    form: str
    values: tuple[object, ...] = ()

    @property
    def words(self) -> str:
        """What a person reads."""
        return self.form.format(*self.values)


@dataclass(frozen=True, slots=True)
class Alert:
    """What a rule tells: a finding that has held since `first_step`, seen again in `step`."""

    rule: str
    step: int
    first_step: int
    finding: Finding

    @property
    def text(self) -> str:
        """What a person reads, in one line."""
        where = f"{self.finding.layer}: " if self.finding.layer else ""
        since = "" if self.first_step == self.step else f", since step {self.first_step}"
        return f"{where}{self.finding.words}{since}"
