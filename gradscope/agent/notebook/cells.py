"""`CellObserver`: the exceptions of a notebook's cells. Jupyter calls no `sys.excepthook` for them."""

import atexit
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from gradscope.agent.run.step_counter import sequence_number
from gradscope.agent.step.engine import StepEngine

__all__ = ["CellObserver", "notebook_shell", "variables_of"]


def notebook_shell() -> Any:  # Any: IPython's shell, which is not imported here
    """Return the shell of the notebook or of IPython in which this process runs; None in a script."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def variables_of(model: nn.Module) -> frozenset[str]:
    """Return the names under which the notebook's cells know a model; none in a script."""
    shell = notebook_shell()
    if shell is None:
        return frozenset()
    return frozenset(
        name for name, value in shell.user_ns.items() if value is model and not name.startswith("_")
    )


class CellObserver:
    """Calls `failed(error)` after a cell that has computed something and raised. Active from `install` to `remove`.

    error: the exception of the newest cell that has computed; None if that cell has ended well.
    """

    def __init__(self, engine: StepEngine, failed: Callable[[BaseException], object]) -> None:
        self._engine = engine
        self._failed = failed
        self._shell = notebook_shell()
        self._at_exit: Callable[[], object] | None = None
        self._before = self._progress()
        self.error: BaseException | None = None

    def install(self, at_exit: Callable[[], object]) -> None:
        """Register with the notebook, if there is one.

        at_exit: called first when the kernel exits. Jupyter kills a kernel that takes seconds to exit.
        """
        if self._shell is not None:
            self._at_exit = atexit.register(at_exit)
            self._shell.events.register("pre_run_cell", self._begin)
            self._shell.events.register("post_run_cell", self._end)

    def remove(self) -> None:
        """Unregister."""
        if self._shell is not None:
            self._shell.events.unregister("pre_run_cell", self._begin)
            self._shell.events.unregister("post_run_cell", self._end)
            if self._at_exit is not None:
                atexit.unregister(self._at_exit)
            self._shell = None

    def _progress(self) -> tuple[int, int]:
        """Return numbers that change when the run computes, by the number of autograd's operations in this thread."""
        engine = self._engine
        return engine.step, -1 if engine.has_computed_nothing else sequence_number()

    def _begin(self, _info: object = None) -> None:
        self._before = self._progress()

    def _end(self, result: Any) -> None:  # Any: IPython's ExecutionResult
        if self._progress() == self._before:
            return
        self.error = getattr(result, "error_in_exec", None)
        if self.error is not None:
            self._failed(self.error)
