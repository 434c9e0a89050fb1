"""The interface of plugins, and the calls that the step engine makes to them.

    at_boundary │ begin ─▶ … ─▶ check_gradients, before_optimizer │ optimizer step │ after_optimizer ─▶ end

Most plugins have nothing to do in most steps. `next_active_step` returns the first step in which a plugin must
be called; until then the plugin costs nothing. `next_active_step` is called again at the end of each step that
is not idle. If its result changes at another time, the plugin calls `RunContext.plan_again()`.

All calls are made in the threads of the training. If a plugin raises, it is switched off and counted as
a fault; the training and the other plugins continue. Only an AlertError propagates, because the script
has requested it with `scope.rule(..., action="raise")`.
"""

import sys
from collections.abc import Callable
from typing import Final

from torch.optim import Optimizer

from gradscope.agent.observation.observed_step import ObservedStep
from gradscope.agent.run.context import RunContext
from gradscope.errors import AlertError

__all__ = ["NEVER", "StepPlugin", "StepPlugins"]

NEVER: Final = sys.maxsize
"""A step that is never reached."""


class StepPlugin:
    """Base class of plugins. A plugin overrides the methods that it needs.

    name: the name of the plugin in faults. needs_observed: call it in each observed step too.
    """

    name = "a plugin"
    needs_observed = False

    def next_active_step(self, step: int) -> int | None:
        """Return the first step, from `step` on, in which this plugin must be called; None if there is none.

        `step` begins next or is in progress. The methods from `at_boundary` to `end` are called only in
        the returned step; the methods below `end` are always called.
        """
        return step

    def at_boundary(self, step: int) -> None:
        """Run between two steps, before `step` begins and interventions take effect. May block."""

    def before_settle(self, step: int) -> None:
        """Run right before requested interventions take effect in `step`."""

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Run at the beginning of a step, after interventions have taken effect."""

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Run before an optimizer of the model steps, after its gradients were observed.

        If the optimizer computes them in a closure: after the first call of the closure.
        """

    def after_optimizer(self, optimizer: Optimizer) -> None:
        """Run after an optimizer of the model has stepped and its updates were observed."""

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:
        """Run at the end of a step. Its statistics may not have been copied from the device yet."""

    def check_gradients(self, step: int, optimizer: Optimizer) -> None:
        """Run before an optimizer steps, and before `before_optimizer` of all plugins.

        Not called in steps that the step counter handles alone: idle steps before `counter.checks_at`,
        and steps that the counter checks itself.
        """

    def gradients_checked(self, steps: int, spent_s: float) -> None:
        """Receive the number of steps that the step counter checked, and the total time in seconds."""

    def ended(self, step: int, time_s: float, step_time_s: float) -> None:
        """Receive a step that has ended. Also called for idle steps, later; the order of steps is kept.

        time_s: when the step ended, in seconds since 1970. step_time_s: its duration, in seconds.
        """

    def observed(self, step: ObservedStep) -> None:
        """Receive the statistics of an observed step. Steps arrive in order."""

    def focus_observed(self, step: ObservedStep) -> None:
        """Receive the statistics of a focus step. Steps arrive in order."""

    def no_step_ends(self, reason: str) -> None:
        """Receive the reason why no step has ended although the model is trained. Called at most once."""

    def close(self) -> None:
        """Remove all hooks and end all waiting, because the scope is being detached. Called once."""


class StepPlugins:
    """The plugins of one run, called in the order in which they were added.

    A method is called only on the plugins that override it. All calls at the end of a step run with the
    script's torch modes disabled.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._counter = run.counter
        self._plugins: list[StepPlugin] = []
        self._active: set[StepPlugin] = set()
        self._is_observed = False
        self.next_active_step = 0
        """The first step in which a plugin must be called, as of the newest plan."""
        self._sort()

    @property
    def are_active(self) -> bool:
        """Whether any plugin must be called in the step in progress."""
        return bool(self._active)

    def add(self, plugin: StepPlugin) -> None:
        """Add a plugin."""
        self._plugins.append(plugin)
        self._sort()
        self._run.plan_again()

    def choose_active(self, step: int) -> list[StepPlugin]:
        """Call `next_active_step` of all plugins. Return the plugins that must be called in `step`."""
        self._counter.must_plan = False  # before the calls: a later change sets it again
        now, later = [], NEVER
        for plugin, ask in self._planned:
            wanted = self._call(plugin, ask, step)
            if not isinstance(wanted, int):
                continue
            if wanted <= step:
                now.append(plugin)
            later = min(later, wanted)
        self.next_active_step = later
        return now

    def begin_step(self, step: int) -> None:
        """Choose the plugins to call in `step`, which is not idle."""
        self._active = set(self.choose_active(step))

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Call `begin` of the chosen plugins, and in an observed step of plugins that need it."""
        self._is_observed = is_observed
        self.call("begin", step, is_observed=is_observed)

    def call(self, name: str, *args: object, **keywords: object) -> None:
        """Call the named method of each plugin that must be called in this step."""
        counter = self._counter
        if not self._active and not self._is_observed and not counter.must_plan:
            return
        for plugin, method in self._overriding[name]:
            if counter.must_plan:
                counter.left = 0  # this step is not idle any more
                self._active.update(self.choose_active(counter.step))
            if plugin in self._active or (self._is_observed and plugin.needs_observed):
                self._call(plugin, method, *args, **keywords)

    def call_all(self, name: str, *args: object) -> None:
        """Call the named method of all plugins; a method that is always called."""
        for plugin, method in self._overriding[name]:
            self._call(plugin, method, *args)

    def close(self) -> None:
        """Close all plugins and remove them."""
        self.call_all("close")
        self._plugins.clear()
        self._active.clear()
        self._sort()

    def _call(
        self, plugin: StepPlugin, method: Callable[..., object], *args: object, **keywords: object
    ) -> object:
        try:
            return method(*args, **keywords)
        except AlertError:
            raise  # a rule with action="raise": meant for the training
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._drop(plugin, error)
            return None

    def _drop(self, plugin: StepPlugin, error: Exception) -> None:
        if plugin in self._plugins:
            self._plugins.remove(plugin)
            self._sort()
        self._active.discard(plugin)
        self._run.faults.report(plugin.name, error, "This plugin is switched off; training continues.")

    def _sort(self) -> None:
        """Find the methods that each plugin overrides."""
        self._overriding = {
            name: tuple(
                (plugin, getattr(plugin, name))
                for plugin in self._plugins
                if getattr(type(plugin), name) is not getattr(StepPlugin, name)
            )
            for name in (*_ALWAYS_CALLED, *_CALLED_WHEN_ACTIVE)
        }
        planned = dict.fromkeys(p for name in _CALLED_WHEN_ACTIVE for p, _ in self._overriding[name])
        self._planned = tuple((plugin, plugin.next_active_step) for plugin in planned)


_ALWAYS_CALLED: Final = (
    "check_gradients",
    "gradients_checked",
    "ended",
    "observed",
    "focus_observed",
    "no_step_ends",
    "close",
)
_CALLED_WHEN_ACTIVE: Final = (
    "at_boundary",
    "before_settle",
    "begin",
    "before_optimizer",
    "after_optimizer",
    "end",
)
