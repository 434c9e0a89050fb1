"""`python -m gradscope.replay FILE script.py:make_model`: reproduces a NaN that a run has captured.

FILE is written by `gradscope capture RUN --fault`. `make_model` is a function without arguments, or a class, that
makes the model; its parameters come from the file. Prints the operation and the line. With `--debug`, stops there in
the debugger.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from gradscope.agent.flight_recorder.fault_file import load_fault, record_of
from gradscope.agent.flight_recorder.replay import replay
from gradscope.agent.flight_recorder.report import finding_of_replay
from gradscope.errors import GradscopeError, UsageError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if the NaN is reproduced, 0 if all is finite, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m gradscope.replay", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("model", metavar="script.py:make_model")
    parser.add_argument("--debug", action="store_true", help="stop in the debugger at the operation")
    given = parser.parse_args(arguments)
    try:
        message, is_found = replay_file(given.file, given.model, is_debugging=given.debug)
    except GradscopeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{message}\n")
    return 1 if is_found else 0


def replay_file(path: Path, maker: str, *, is_debugging: bool = False) -> tuple[str, bool]:
    """Return what a replay of a file says, and whether the NaN was found again."""
    fault = load_fault(path)
    model = _find_maker(maker)()
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected {maker} to return an nn.Module, got {type(model).__name__}")
    module = model.get_submodule(fault.about["module"])
    state = {n.removeprefix("state."): t for n, t in fault.tensors.items() if n.startswith("state.")}
    if state:
        module.load_state_dict(state)
    names = {id(each): name for name, each in model.named_modules()}
    found = replay(record_of(fault, module), names, is_debugging=is_debugging)
    step = fault.about["step"]
    finding = finding_of_replay(found, step=step, parameters=(), note="", is_first_check=True)
    return finding.message, found.origin is not None


def _find_maker(name: str) -> Callable[[], object]:
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not function or not path.is_file():
        raise UsageError(f"expected script.py:make_model with an existing script, got {name!r}")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"expected a Python script, got {file!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"expected a function or class {function!r} in {file}, found none")
    maker: Callable[[], object] = found
    return maker


if __name__ == "__main__":
    sys.exit(main())
