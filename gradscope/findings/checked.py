"""`Checked`: what the checks of a run have covered, and what they could not check and why."""

from dataclasses import dataclass

__all__ = ["Checked", "NotChecked", "unreported"]


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Something that could not be checked: `what`, `why`, and what enables it (`enable`); each as a clause."""

    what: str
    why: str
    enable: str = ""

    @property
    def text(self) -> str:
        """One sentence."""
        return f"{self.what}: {self.why}" + (f"; {self.enable}" if self.enable else "")


@dataclass(frozen=True, slots=True)
class Checked:
    """The coverage of one run, or of one rank of it.

    steps: the number of steps that have ended. observed: how many of them were observed; -1 if unknown.
    first: how many of these were consecutive from the beginning on. every: the newest interval of observed
        steps; 0 if unknown.
    """

    steps: int = 0
    observed: int = 0
    first: int = 0
    every: int = 0
    not_checked: tuple[NotChecked, ...] = ()

    @property
    def text(self) -> str:
        """The steps as a clause: "in 1,240 steps (62 observed: the first 20, now every 29th)"."""
        if not self.steps:
            return "before the first step"
        steps = f"in {self.steps:,} steps" if self.steps > 1 else "in 1 step"
        if self.observed < 0:
            return f"up to step {self.steps - 1:,}"
        if self.observed >= self.steps:
            return f"{steps} (all observed)" if self.steps > 1 else f"{steps} (observed)"
        if not self.observed:
            return f"{steps} (none observed)"
        parts = [f"the first {self.first}"] if self.first > 1 else []
        parts += [f"now every {_ordinal(self.every)}"] if self.every > 1 else []
        return f"{steps} ({self.observed:,} observed{': ' if parts else ''}{', '.join(parts)})"


def unreported(steps: int) -> Checked:
    """Return the coverage to show for a run that has not reported it, such as a recording of an earlier version."""
    why = "the run has not reported what was checked, as an earlier version of gradscope does not"
    return Checked(
        steps, -1, not_checked=(NotChecked("what newer versions check", why),) if steps else ()
    )


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number:,}th"
    return f"{number:,}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
