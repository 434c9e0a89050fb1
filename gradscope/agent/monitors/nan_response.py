"""The response to gradients that are not finite: an alert, and the action of the rule `nonfinite`.

Only an observed step shows the origin of a NaN, and there the rule `nonfinite` names it. In any other step
the alert names the step and the parameters, and says that the origin was not observed. The following steps
are observed, in case the NaN appears again. One step after the first NaN, the parameters contain it, unless
the step was skipped.
"""

from collections.abc import Callable, Sequence
from typing import Final

from torch import nn

from gradscope.agent.monitors.rules import ActiveRule, RuleMonitor
from gradscope.agent.step.plugins import StepPlugin
from gradscope.hooks import is_sharded
from gradscope.rules import Alert, RuleFinding

__all__ = ["NonfiniteResponse"]

_FOLLOWED: Final = 10
"""Number of steps to observe after a nonfinite step. After as many clean steps, the next one is new."""

_RULE: Final = "nonfinite"
_SHOWN: Final = 3


class NonfiniteResponse(StepPlugin):
    """Reports nonfinite gradients to the rules of a run. `observe(n)` observes the next n steps.

    `unchecked()` describes the gradients that are not checked in every step; empty if all are.
    """

    name = "the response to nonfinite gradients"
    needs_observed = True

    def __init__(
        self,
        alarms: RuleMonitor,
        model: Callable[[], nn.Module | None],
        observe: Callable[[int], None],
        unchecked: Callable[[], str],
    ) -> None:
        self._alarms = alarms
        self._model = model
        self._observe = observe
        self._unchecked = unchecked
        self._observed: tuple[int, bool] = (-1, False)
        self._last: int | None = None

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Remember whether the step is observed."""
        self._observed = step, is_observed
        self.rest()

    def must_wait(self) -> bool:
        """Return whether the result of the check is needed before the optimizer steps."""
        return any(each.action in ("skip_step", "raise") for each in self._alarms.active(_RULE))

    def must_act(self) -> bool:
        """Return whether a rule does more about a nonfinite step than report it."""
        return self._alarms.acts_on_nonfinite

    def see(self, step: int, parameters: Sequence[nn.Parameter]) -> bool:
        """Handle parameters whose gradients are not finite; return whether to skip the optimizer step."""
        is_first = self._last is None or step > self._last + _FOLLOWED
        self._last = step
        self.wake()
        if is_first:
            self._observe(_FOLLOWED)
        has_shards = any(is_sharded(parameter) for parameter in parameters)
        names = self._names_of(parameters) if is_first else []
        must_skip = False
        for active in self._alarms.active(_RULE):
            must_skip |= active.action == "skip_step" and not has_shards
            if (
                is_first
                and self._concerns(active, names)
                and not self._is_reported_by_columns(active, step)
            ):
                words = _words(
                    names, active, is_observed=self._is_observed(step), has_shards=has_shards
                )
                if not self.must_act() and self._unchecked():
                    words += f"; {self._unchecked()}"
                finding = RuleFinding("", "param_grad", float(len(names)), 0.0, "{}", (words,))
                self._alarms.act(active, [Alert(_RULE, step, step, finding)])
        return must_skip

    def _is_observed(self, step: int) -> bool:
        return self._observed == (step, True)

    def _is_reported_by_columns(self, active: ActiveRule, step: int) -> bool:
        """Return whether the columns of the step will report it, with the origin and in time."""
        return self._is_observed(step) and active.action not in ("skip_step", "raise")

    @staticmethod
    def _concerns(active: ActiveRule, names: Sequence[str]) -> bool:
        layers = active.rule.layers
        return layers is None or any(name.rpartition(".")[0] in layers for name in names)

    def _names_of(self, parameters: Sequence[nn.Parameter]) -> list[str]:
        model = self._model()
        names = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        return [names.get(id(parameter), "a parameter outside the model") for parameter in parameters]


def _words(names: Sequence[str], active: ActiveRule, *, is_observed: bool, has_shards: bool) -> str:
    rest = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    origin = "" if is_observed else "; origin not observed"
    skipped = ""
    if active.action == "skip_step":
        skipped = (
            "; the step is not skipped: gradients are sharded, and ranks might differ"
            if has_shards
            else "; the optimizer's step is skipped"
        )
    return f"not finite: the gradients of {shown}{origin}{skipped}"
