"""`RunNames`: the names of the runs of one script."""

from collections import Counter
from collections.abc import Callable, Sequence

from torch import nn

from gradscope.agent.run.identity import default_run_name

__all__ = ["RunNames"]


class RunNames:
    """Names the runs of a script: after the class of the model, or its variable if the class does not distinguish it.

    given: the name that the user has chosen. The only model of a script is the run of that name; several are its
    parts: `NAME-Generator`.
    """

    def __init__(self, given: str | None) -> None:
        self._given = given
        self._used: Counter[str] = Counter()
        self._classes: Counter[str] = Counter()

    def kinds_of(
        self, models: Sequence[nn.Module], variable_of: Callable[[nn.Module], str | None]
    ) -> list[str]:
        """Return what distinguishes each of these models, which are new."""
        classes = [type(model).__name__ for model in models]
        self._classes.update(classes)
        return [
            (variable_of(model) or name)
            if self._classes[name] > 1 or type(model).__module__.startswith("torch.nn.")
            else name
            for model, name in zip(models, classes, strict=True)
        ]

    def next_name(self, kind: str, *, is_alone: bool) -> str:
        """Return the name of the next run, which no earlier one has."""
        if self._given is None:
            return default_run_name(kind)
        is_first = is_alone and not self._used
        name = self._given if is_first else f"{self._given}-{kind}"
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}-{self._used[name]}"
