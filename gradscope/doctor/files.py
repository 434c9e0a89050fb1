"""The Functions in a file, examined one by one; in a child process where that is wanted.

Inputs come from a static method `example_inputs()` of the Function, or from a function
`example_inputs()` of the file, which returns a tuple of inputs for each of them or a dict from a
Function's name to a tuple.
"""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from torch.autograd import Function

from gradscope.doctor.examine import examine
from gradscope.doctor.report import Report
from gradscope.errors import UsageError

__all__ = ["examine_file", "examine_file_isolated"]

_TIMEOUT_S: Final = 120.0


def examine_file(
    path: str | Path, name: str | None = None, *, approximate: bool = False, second_order: bool = True
) -> list[Report]:
    """Examine the Functions that a Python file defines, or the one named, in the order of the file.

    Runs the file. Raises UsageError where it is missing, cannot be run, has no such Function, or
    gives no example inputs.
    """
    with _finding_what_lies_beside(Path(path)):
        module = _load(Path(path))
        return [
            examine(
                function,
                *_inputs_of(function, module),
                approximate=approximate,
                second_order=second_order,
            )
            for function in _functions_of(module, name)
        ]


def examine_file_isolated(
    path: str | Path,
    name: str | None = None,
    *,
    approximate: bool = False,
    second_order: bool = True,
    timeout_s: float = _TIMEOUT_S,
) -> list[Report]:
    """Do the same in a child process, which may crash or hang without harm.

    Raises UsageError with the end of what the child printed where it failed, or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="gradscope-") as directory:
        result = Path(directory) / "reports.json"
        asked = {
            "path": str(path),
            "name": name,
            "approximate": approximate,
            "second_order": second_order,
        }
        command = [sys.executable, "-P", "-m", "gradscope.doctor", json.dumps(asked), str(result)]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UsageError(
                f"the examination of {path} did not end in {timeout_s:g} s and was stopped; "
                "give smaller example inputs, or a longer time"
            ) from error
        if not result.exists():
            last = "\n".join(ended.stderr.strip().splitlines()[-5:])
            raise UsageError(
                f"the examination of {path} ended with exit code {ended.returncode} and no report; "
                f"it last said:\n{last}"
            )
        reports: list[Mapping[str, Any]] = json.loads(result.read_text(encoding="utf-8"))
    return [Report.from_dict(report) for report in reports]


@contextlib.contextmanager
def _finding_what_lies_beside(path: Path) -> Iterator[None]:
    """Let the file import its neighbours, as it can when Python runs it."""
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"expected a Python file, found none at {path}; check the path")
    spec = importlib.util.spec_from_file_location(f"_examined_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(
            f"expected a file that Python can import, got {path}; its name should end in .py"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # inspect looks there for the source of what the file defines
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise UsageError(
            f"{path} cannot be run: {type(error).__name__}: {error}; run it by itself with Python first"
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
    made = maker()
    if isinstance(made, Mapping):
        made = made.get(function.__name__)
    if not isinstance(made, tuple | list):
        raise UsageError(
            f"expected example_inputs() to give a tuple of inputs for {function.__name__}, got "
            f"{type(made).__name__}; return (torch.randn(4, 3),), or a dict of such by Function name"
        )
    return made
