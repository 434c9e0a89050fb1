"""Judging a case: run it in the three modes and collect in what they differ."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gradscope.columns import INPUT_KIND, Table
from trials.comparing import difference, wrong_bins, wrong_numbers
from trials.reference import Row
from trials.traces import global_state
from trials.trial import Mode, Trial

__all__ = ["Outcome", "judge"]


@dataclass
class Outcome:
    """What came of a case. All but the last four are to be empty.

    not_measured: rows that the reference has numbers for and gradscope says it has none for.
    unreached: rows where no gradient came, in the reference as well. told: parts that said something.
    """

    different: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    statistics: int = 0
    not_measured: set[tuple[str, str]] = field(default_factory=set)
    unreached: set[tuple[str, str]] = field(default_factory=set)
    told: set[str] = field(default_factory=set)

    @property
    def problems(self) -> list[str]:
        """Everything that is not as it has to be, in words."""
        parts = ("different", "raised", "left", "wrong", "unfit")
        return [f"{part}: {text}" for part in parts for text in getattr(self, part)]


def judge(case: Callable[[Trial], None]) -> Outcome:
    """Run a case bare, with the reference's hooks and attached, and compare."""
    outcome = Outcome()
    bare = Trial(Mode.BARE).run(case)
    before = global_state()
    attached = Trial(Mode.ATTACHED).run(case)
    if bare.warned != attached.warned:
        bare = Trial(Mode.BARE).run(case)  # some warnings come once a process, with an import
    _compare_runs(outcome, bare, attached)
    after = global_state()
    outcome.left += [f"{k}: {before[k]} became {after[k]}" for k in after if after[k] != before.get(k)]
    outcome.told = set(attached.faults)
    reference = Trial(Mode.REFERENCE).run(case)
    if reference.is_compared:
        _check_reference(outcome, bare, reference)
        _compare_statistics(outcome, reference, attached)
    return outcome


def _compare_runs(outcome: Outcome, bare: Trial, attached: Trial) -> None:
    outcome.different += _differences(bare, attached)
    pairs = zip(bare.asides, attached.asides, strict=True)
    outcome.different += [f"aside: {text}" for a, b in pairs if (text := difference(a, b))]
    pairs = zip(bare.random_states, attached.random_states, strict=True)
    outcome.different += [f"random state: {text}" for a, b in pairs if (text := difference(a, b))]
    if bare.raised != attached.raised:
        outcome.raised.append(f"{attached.raised} where bare {bare.raised}")
    if bare.warned != attached.warned:
        outcome.raised.append(f"warned {attached.warned} where bare {bare.warned}")
    for a, b in zip(bare.structures, attached.structures, strict=True):
        outcome.left += [f"{y} where bare {x}" for x, y in zip(a, b, strict=False) if x != y]
        if len(a) != len(b):
            outcome.left.append(f"{len(b)} modules and parameters where bare {len(a)}")


def _differences(a: Trial, b: Trial) -> list[str]:
    if [name for name, _ in a.kept] != [name for name, _ in b.kept]:
        return [f"kept {len(b.kept)} values where bare {len(a.kept)}"]
    pairs = zip(a.kept, b.kept, strict=True)
    return [f"{name}: {text}" for (name, x), (_, y) in pairs if (text := difference(x, y))]


def _check_reference(outcome: Outcome, bare: Trial, reference: Trial) -> None:
    """The reference is one only where it computed the very same thing."""
    texts = _differences(bare, reference)
    if bare.raised != reference.raised:
        texts.append(f"raised {reference.raised} where bare {bare.raised}")
    outcome.unfit += [f"the reference itself differs from bare: {text}" for text in texts]


def _compare_statistics(outcome: Outcome, reference: Trial, attached: Trial) -> None:
    steps = reference.steps
    if len(steps) != len(attached.tables):
        outcome.wrong.append(f"{len(attached.tables)} steps for {len(steps)}")
        return
    for i, (step, table) in enumerate(zip(steps, attached.tables, strict=True)):
        if (table is None) != bool(i % attached.every):
            outcome.wrong.append(f"step {i} was {'not ' if table is None else ''}observed")
        elif table is not None:
            _compare_step(outcome, i, step, table, is_scaled=reference.is_scaled)


def _compare_step(
    outcome: Outcome, i: int, step: dict[tuple[str, str], Row], table: Table, *, is_scaled: bool
) -> None:
    found = {
        (layer, kind): stats
        for layer, rows in table.items()
        for kind, stats in rows.items()
        if not kind.startswith(INPUT_KIND)  # of what the program passes, not of the model
    }
    for key, row in step.items():
        stats = found.pop(key, None)
        name = f"step {i} {key[0]} {key[1]}"
        if stats is None:
            outcome.wrong.append(f"{name}: missing, and not said to be")
        elif not row.tensors:
            outcome.unreached.add(key)
            if stats.is_measured:
                outcome.wrong.append(f"{name}: {stats.calls} calls measured, none in the reference")
        elif not stats.is_measured:
            outcome.not_measured.add(key)
        else:
            rounded = key[1].startswith("update") or any(t.is_complex() for t in row.tensors)
            numbers = row.numbers()
            wrong = wrong_numbers(stats, numbers, is_rounded=rounded)
            is_shifted = is_scaled and "grad" in key[1]
            if not rounded:
                wrong += wrong_bins(stats, numbers, is_shifted=is_shifted)
            outcome.wrong += [f"{name}: {text}" for text in wrong]
            outcome.statistics += 1
    outcome.wrong += [f"step {i} {k[0]} {k[1]}: the reference has no such row" for k in found]
