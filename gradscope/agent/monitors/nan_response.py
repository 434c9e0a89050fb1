"""What is told and done when the sentinel finds gradients that are not finite.

The origin shows only in an observed step's columns, and there the rule `nonfinite` names it. In any
other step what is known is told: the step, the parameters, and that the origin was not observed; and
the steps after it are observed, so that it may show. One step after the first NaN the parameters have
it, unless the step was skipped.
"""

from collections.abc import Callable, Sequence
from typing import Final

from torch import nn

from gradscope.agent.monitors.rules import ActiveRule, RuleMonitor
from gradscope.agent.step.plugins import StepPlugin
from gradscope.rules import Alert, RuleFinding

__all__ = ["NonfiniteResponse"]

_FOLLOWED: Final = 10
"""Steps that are observed after a first bad one; one that comes as much later is a first one again."""

_RULE: Final = "nonfinite"
_SHOWN: Final = 3


class NonfiniteResponse(StepPlugin):
    """The sentinel's way to the rules of one run. `observe(n)` has the next n steps observed.

    `passed_over()` says in words what the sentinel does not look at in every step; empty for nothing.
    """

    name = "what follows a bad step"
    needs_observed = True

    def __init__(
        self,
        alarms: RuleMonitor,
        model: Callable[[], nn.Module | None],
        observe: Callable[[int], None],
        passed_over: Callable[[], str],
    ) -> None:
        self._alarms = alarms
        self._model = model
        self._observe = observe
        self._passed_over = passed_over
        self._observed: tuple[int, bool] = (-1, False)
        self._last: int | None = None

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Note whether the step is observed."""
        self._observed = step, is_observed
        self.rest()

    def must_wait(self) -> bool:
        """Whether it must be known before the optimizer steps if its gradients are finite."""
        return any(each.action in ("skip_step", "raise") for each in self._alarms.posted(_RULE))

    def must_act(self) -> bool:
        """Whether more is to be done about a bad step than to tell of it."""
        return self._alarms.acts_on_nonfinite

    def see(self, step: int, parameters: Sequence[nn.Parameter]) -> bool:
        """Take what the sentinel found; return whether the optimizer is not to step."""
        is_first = self._last is None or step > self._last + _FOLLOWED
        self._last = step
        self.wake()
        if is_first:
            self._observe(_FOLLOWED)
        is_sharded = any(hasattr(parameter, "to_local") for parameter in parameters)
        names = self._names_of(parameters) if is_first else []
        must_skip = False
        for posted in self._alarms.posted(_RULE):
            must_skip |= posted.action == "skip_step" and not is_sharded
            if (
                is_first
                and self._is_meant(posted, names)
                and not self._is_told_by_columns(posted, step)
            ):
                words = _words(
                    names, posted, is_observed=self._is_observed(step), is_sharded=is_sharded
                )
                if not self.must_act() and self._passed_over():
                    words += f"; {self._passed_over()}"
                finding = RuleFinding("", "param_grad", float(len(names)), 0.0, "{}", (words,))
                self._alarms.act(posted, [Alert(_RULE, step, step, finding)])
        return must_skip

    def _is_observed(self, step: int) -> bool:
        return self._observed == (step, True)

    def _is_told_by_columns(self, posted: ActiveRule, step: int) -> bool:
        """Whether the step's columns will tell it, with the origin, and early enough."""
        return self._is_observed(step) and posted.action not in ("skip_step", "raise")

    @staticmethod
    def _is_meant(posted: ActiveRule, names: Sequence[str]) -> bool:
        layers = posted.rule.layers
        return layers is None or any(name.rpartition(".")[0] in layers for name in names)

    def _names_of(self, parameters: Sequence[nn.Parameter]) -> list[str]:
        model = self._model()
        names = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        return [
            names.get(id(parameter), "a parameter outside of the model") for parameter in parameters
        ]


def _words(names: Sequence[str], posted: ActiveRule, *, is_observed: bool, is_sharded: bool) -> str:
    rest = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    origin = "" if is_observed else "; origin not observed"
    skipped = ""
    if posted.action == "skip_step":
        skipped = (
            "; the step is not skipped: gradients are sharded, and ranks might differ"
            if is_sharded
            else "; the optimizer's step is skipped"
        )
    return f"not finite: the gradients of {shown}{origin}{skipped}"
