"""The forward hook, brought into line with what a step needs of it."""

from collections.abc import Callable

from gradscope.agent.observation.layer_slots import Slot
from gradscope.agent.step.hook_callbacks import HookCallbacks
from gradscope.hooks import ForwardHook, SlotTable, has_compiled, quiet_about_global_hooks

__all__ = ["ForwardHookInstaller"]


class ForwardHookInstaller:
    """Has the forward hook there in the steps that need it.

    Once anything was compiled it stays: what is traced in an unobserved step must know of it too.
    `look_again()` follows what was changed in the model, and returns whether that is done.
    """

    def __init__(self, observing: HookCallbacks, look_again: Callable[[], bool]) -> None:
        self._observing = observing
        self._look_again = look_again
        self._forward: ForwardHook[Slot] = ForwardHook(observing.on_forward, observing.compiled)
        self._had_compiled = False
        self._undo_quiet: Callable[[], None] | None = None

    def open(self) -> None:
        """Begin: what is compiled from now on is observed, and global hooks are nothing to warn of."""
        self._undo_quiet = quiet_about_global_hooks()
        self._observing.compiled.open()

    @property
    def is_current(self) -> bool:
        """Whether nothing was compiled for the first time since the hook was brought into line."""
        return has_compiled() == self._had_compiled

    def align(self) -> None:
        """Bring it into line with the step that begins."""
        observing = self._observing
        watched = observing.watched
        self._had_compiled = has_compiled()
        observing.compiled.is_on = observing.is_whole
        table = watched.plan.table(is_observed=observing.is_whole, is_focus=observing.is_focus)
        if table is not None:
            first = self._look_again if watched.wants_looks else None
            self._forward.watch(table, first, observing.see)
        elif self._had_compiled:
            self._forward.watch(SlotTable(()))
        elif self._forward.is_installed:
            self._forward.remove()

    def close(self) -> None:
        """Take the hook off, and leave all as it was."""
        self._forward.remove()
        self._observing.compiled.close()
        if self._undo_quiet is not None:
            self._undo_quiet()
            self._undo_quiet = None
