"""`gradscope run`: replaces this process by Python with the script, and has gradscope observe it.

The script's process is the one that `python train.py` would be: only the environment differs, until Python has loaded
`gradscope/launch/bootstrap/sitecustomize.py`.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gradscope.errors import UsageError
from gradscope.launch.options import LaunchOptions
from gradscope.names import check_pattern, check_run_name

__all__ = ["run_script"]


def run_script(
    script: str,
    arguments: Sequence[str],
    *,
    is_module: bool,
    **options: Any,  # Any: the fields of LaunchOptions
) -> NoReturn:
    """Run a script, or a module as `python -m` does. `options`: fields of `LaunchOptions`. Does not return."""
    if options["name"] is not None:
        check_run_name(options["name"])
    for pattern in options["layers"]:
        check_pattern(pattern)
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise UsageError(
            "gradscope run needs PYTHONPATH and the module site, which the options -E, -I and -S of Python turn off"
        )
    environment = dict(os.environ)
    if environment.get("GRADSCOPE", "1") != "0":
        launch = LaunchOptions(**options, pid=os.getpid(), python_path=environment.get("PYTHONPATH"))
        launch.write_to(environment)
    command = [
        sys.executable,
        *_interpreter_options(),
        *(["-m"] if is_module else []),
        script,
        *arguments,
    ]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is meant


def _interpreter_options() -> list[str]:
    """Return the options with which this interpreter was started: `-u` under torchrun, for example."""
    own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]
    ends = next((i for i, each in enumerate(own) if each.startswith("-m")), len(own) - 1)
    return own[: max(0, ends)]
