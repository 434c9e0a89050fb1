"""`examine_file`: examines the Functions that a Python file defines.

Example inputs come from a static method `example_inputs()` of the Function, or from a function
`example_inputs()` of the file. It returns one tensor or a tuple of inputs, or a dict from a Function's name to these.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from torch import Tensor
from torch.autograd import Function

from gradscope.doctor.examine import examine
from gradscope.doctor.progress import progress
from gradscope.doctor.report.report import Report
from gradscope.doctor.timeouts import (
    CodePosition,
    TimeLimitReached,
    position_of,
    report_on_timeout,
    time_limit,
)
from gradscope.errors import UsageError

__all__ = ["TIMEOUT_S", "examine_each", "examine_file", "timeout_message"]

TIMEOUT_S: Final = 120.0
"""The default time limit for one Function, in seconds."""


def examine_file(
    path: str | Path,
    name: str | None = None,
    *,
    approximate: bool = False,
    second_order: bool = True,
    timeout_s: float | None = None,
) -> list[Report]:
    """Run a Python file, and examine the Functions that it defines, in the order of the file.

    name: examine only this Function.
    timeout_s: the time limit for each Function, in seconds. It cannot interrupt compiled code. A Function that
        exceeds the limit gets a report that says so.

    Raises UsageError if the file is missing, cannot be run, has no such Function, or provides no example inputs.
    """
    return list(
        examine_each(
            path, name, approximate=approximate, second_order=second_order, timeout_s=timeout_s
        )
    )


def examine_each(
    path: str | Path,
    name: str | None = None,
    *,
    approximate: bool = False,
    second_order: bool = True,
    timeout_s: float | None = None,
    after: int = 0,
    on_begin: Callable[[str], object] = len,
) -> Iterator[Report]:
    """Yield the reports of `examine_file` one by one.

    after: the number of Functions to skip.
    on_begin: called with the name of each Function before its examination.
    """
    with _folder_on_path(Path(path)):
        module = _load_in_time(Path(path), timeout_s)
        functions = _functions_of(module, name)
        prepared = [(f, _inputs_of(f, module)) for f in functions]
        for function, inputs in prepared[after:]:
            on_begin(function.__name__)
            try:
                with time_limit(timeout_s):
                    report = examine(
                        function, *inputs, approximate=approximate, second_order=second_order
                    )
            except TimeLimitReached as error:
                position = position_of(error, str(module.__file__))
                report = report_on_timeout(function.__name__, timeout_s or 0.0, position)
            yield report


def _load_in_time(path: Path, timeout_s: float | None) -> ModuleType:
    try:
        with time_limit(timeout_s), progress(f"running {path}"):
            return _import_file(path)
    except TimeLimitReached as error:
        position = position_of(error, str(path.absolute()))
        raise UsageError(timeout_message(path, timeout_s or 0.0, position)) from error


def timeout_message(path: str | Path, timeout_s: float, position: CodePosition | None) -> str:
    """Return the message for a file that does not finish within the time limit."""
    where = f" at line {position.line}" if position else ""
    return (
        f"running {path} did not end in {timeout_s:g} s and was stopped{where}; put code that is to run only "
        'as a script under `if __name__ == "__main__":`'
    )


@contextlib.contextmanager
def _folder_on_path(path: Path) -> Iterator[None]:
    """Allow the file to import modules of its folder, as when Python runs it as a script."""
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"expected a Python file, found none at {path}; check the path")
    spec = importlib.util.spec_from_file_location(f"_examined_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(
            f"expected a file that Python can import, got {path}; its name should end in .py"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # inspect finds the source of the file's classes there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise UsageError(
            f"{path} cannot be run: {type(error).__name__}: {error}; first make it run with Python alone"
        ) from error
    return module


def _functions_of(module: ModuleType, name: str | None) -> list[type[Function]]:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Function)
        and value.__module__ == module.__name__
    ]
    names = ", ".join(function.__name__ for function in own) or "none"
    chosen = [function for function in own if name is None or function.__name__ == name]
    if not chosen:
        wanted = f"an autograd Function named {name}" if name else "an autograd Function"
        raise UsageError(
            f"expected {wanted} in {module.__file__}, found {names}; define it at the top level"
        )
    return chosen


def _inputs_of(function: type[Function], module: ModuleType) -> Sequence[object]:
    maker = getattr(function, "example_inputs", None) or getattr(module, "example_inputs", None)
    if maker is None:
        raise UsageError(
            f"expected example inputs for {function.__name__}, found none in {module.__file__}; "
            "define example_inputs() in the file, or as a static method of the Function, returning "
            "a tuple"
        )
    try:
        made = maker()
    except Exception as error:
        raise UsageError(
            f"example_inputs() for {function.__name__} raises {type(error).__name__}: {error}; "
            f"test it with python -i {module.__file__}"
        ) from error
    if isinstance(made, Mapping):
        made = made.get(function.__name__)
    if isinstance(made, Tensor):
        return (made,)
    if not isinstance(made, tuple | list):
        raise UsageError(
            f"expected example_inputs() to give a tuple of inputs for {function.__name__}, got "
            f"{type(made).__name__}; return (torch.randn(4, 3),), or a dict from Function names to tuples"
        )
    return made
