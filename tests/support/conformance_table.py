"""The table of the conformance cases: one line for each group of cases."""

from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["counts_of", "table"]

COLUMNS = ("cases", "equal", "different", "raised", "left something", "statistics", "wrong",
           "not measured", "no gradient")  # fmt: skip


def counts_of(outcome) -> dict[str, int]:
    """Return the columns of one case, from its `trials.Outcome`."""
    return {
        "cases": 1,
        "equal": int(not (outcome.different or outcome.raised or outcome.left)),
        "different": int(bool(outcome.different)),
        "raised": int(bool(outcome.raised)),
        "left something": int(bool(outcome.left)),
        "statistics": outcome.statistics,
        "wrong": len(outcome.wrong) + len(outcome.unfit),
        "not measured": len(outcome.not_measured),
        "no gradient": len(outcome.unreached),
    }


def table(cases: Iterable[tuple[str, Mapping[str, int]]]) -> list[str]:
    """Return the lines of the table of (group, columns), with a line of sums."""
    groups: dict[str, Counter[str]] = {}
    for group, counts in cases:
        groups.setdefault(group, Counter()).update(counts)
    if not groups:
        return []
    width = max(len("group"), *(len(name) for name in groups))
    total: Counter[str] = sum(groups.values(), Counter())
    lines = ["  ".join([f"{'group':<{width}}", *(f"{c:>{len(c)}}" for c in COLUMNS)])]
    for name, counts in [*sorted(groups.items()), ("all", total)]:
        lines.append("  ".join([f"{name:<{width}}", *(f"{counts[c]:>{len(c)}}" for c in COLUMNS)]))
    return lines
