"""How a run ends, as its viewers read it: by an exception, by an exit of the process, or by `detach`."""

import sys
import threading
from collections.abc import Callable
from typing import Any

from gradscope.protocol import Bye

__all__ = ["ExitCodeObserver", "SysHook", "exit_reason", "failure", "one_line"]

_TEXT_LIMIT = 300


class SysHook:
    """A callable in place of a function of `sys`, such as `sys.excepthook`, between `install` and `remove`.

    It calls the previous function. `remove` restores that function. If other code has installed a hook
    after this one, that hook stays, and this object then only calls the previous function.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_installed = False
        self._previous: Callable[..., Any] = getattr(sys, name)  # Any: what the function of sys returns

    def install(self) -> None:
        """Replace the function of `sys`."""
        self._previous = getattr(sys, self._name)
        self._is_installed = True
        setattr(sys, self._name, self)

    def remove(self) -> None:
        """Restore the previous function. Hooks of this class that were removed earlier are skipped."""
        self._is_installed = False
        while isinstance(hook := getattr(sys, self._name), SysHook) and not hook._is_installed:  # noqa: SLF001 - ours
            setattr(sys, self._name, hook._previous)  # noqa: SLF001 - as above


class ExitCodeObserver(SysHook):
    """Records the argument of the `sys.exit` call that ends the process.

    `code` is None until then. A call whose SystemExit is caught is not recorded: the traceback of that
    exception is then freed by Python code, and not by the interpreter itself.
    """

    def __init__(self) -> None:
        super().__init__("exit")
        self.code: object = None
        self._calls = 0
        self._recorded_call = 0

    def __call__(self, code: object = None, /) -> None:
        """Exit, as `sys.exit` does."""
        self._calls += 1
        mark = _Mark(self, self._calls, code)  # the traceback of the SystemExit holds it
        self._previous(code)
        del mark

    def record(self, call: int, code: object) -> None:
        """Record the argument of a call. A later call replaces an earlier one, from whose handler it came."""
        if call > self._recorded_call:
            self._recorded_call, self.code = call, code


class _Mark:
    """Records an exit code when it is freed, if no Python code is running any more in the main thread."""

    def __init__(self, observer: ExitCodeObserver, call: int, code: object) -> None:
        self._observer, self._call, self._code = observer, call, code

    def __del__(self) -> None:
        is_last = sys._getframe().f_back is None  # noqa: SLF001 - documented, in spite of its name
        if is_last and threading.current_thread() is threading.main_thread():
            self._observer.record(self._call, self._code)


def exit_reason(exit_code: object) -> Bye:
    """Return the `bye` of a process that is exiting. `exit_code`: the argument of its `sys.exit`, or None.

    The code is known only if `sys.exit` was looked up after `attach`: not in `sys.exit(main())`, nor in
    `raise SystemExit(code)`.
    """
    error = _uncaught()
    if error is not None:
        return failure(error)
    if exit_code is None and _has_left_script():
        return Bye(reason="the process exited by SystemExit, code not known")
    if exit_code is None or exit_code == 0:
        return Bye(reason="the process exited")
    if isinstance(exit_code, int):
        return Bye(reason=f"the process exited with code {exit_code}", has_failed=True)
    text = one_line(lambda: str(exit_code))
    return Bye(reason=f"the process exited with code 1: {text}", has_failed=True)


def failure(error: BaseException) -> Bye:
    """Return the `bye` of a run that an exception ended: `RuntimeError: boom`."""
    if isinstance(error, KeyboardInterrupt):
        return Bye(reason="KeyboardInterrupt (Ctrl-C)", has_failed=True)
    text = one_line(lambda: str(error))
    return Bye(reason=type(error).__name__ + (f": {text}" if text else ""), has_failed=True)


def one_line(make: Callable[[], str]) -> str:
    """Return a text of the user in one line of bounded length; empty if making it fails."""
    try:
        text = " ".join(make().split())
    except Exception:  # noqa: BLE001 - the script's own code
        return ""
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"


def _has_left_script() -> bool:
    """Return whether SystemExit ended a script: at its last line, Python removes `__file__` from the module."""
    main = sys.modules.get("__main__")
    return hasattr(main, "__file__") and getattr(main, "__spec__", None) is None


def _uncaught() -> BaseException | None:
    """Return the exception that ends the process: no code caught it, so its traceback has no caller.

    Interactive interpreters and test runners store exceptions in the same place and then continue.
    """
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    trace = getattr(sys, "last_traceback", None)
    is_interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
    if trace is None or is_interactive or trace.tb_frame.f_back is not None:
        return None
    return error if isinstance(error, BaseException) else None
