"""The table that is printed when all is done: one line a group of cases."""

from collections import Counter
from collections.abc import Iterable

from trials.outcome import Outcome

__all__ = ["StepCounter"]

COLUMNS = ("cases", "equal", "different", "raised", "left something", "statistics", "wrong",
           "not measured", "no gradient")  # fmt: skip


class StepCounter:
    """Counts outcomes by group."""

    def __init__(self) -> None:
        self._groups: dict[str, Counter[str]] = {}

    def add(self, group: str, outcome: Outcome) -> None:
        """Count a case."""
        counts = self._groups.setdefault(group, Counter())
        counts["cases"] += 1
        counts["equal"] += not (outcome.different or outcome.raised or outcome.left)
        counts["different"] += bool(outcome.different)
        counts["raised"] += bool(outcome.raised)
        counts["left something"] += bool(outcome.left)
        counts["statistics"] += outcome.statistics
        counts["wrong"] += len(outcome.wrong) + len(outcome.unfit)
        counts["not measured"] += len(outcome.not_measured)
        counts["no gradient"] += len(outcome.unreached)

    def lines(self) -> Iterable[str]:
        """Yield the table, with a line of sums."""
        if not self._groups:
            return
        width = max(len("group"), *(len(name) for name in self._groups))
        yield "  ".join([f"{'group':<{width}}", *(f"{c:>{len(c)}}" for c in COLUMNS)])
        total: Counter[str] = sum(self._groups.values(), Counter())
        for name, counts in [*self._groups.items(), ("all", total)]:
            yield "  ".join([f"{name:<{width}}", *(f"{counts[c]:>{len(c)}}" for c in COLUMNS)])
