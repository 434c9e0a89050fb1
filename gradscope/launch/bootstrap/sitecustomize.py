"""Python imports this module before the script that `gradscope run` has started; in other processes it does nothing.

It removes all that `gradscope run` has added to the process, prepares the observation, and then imports the
`sitecustomize` of the environment in place of itself. If there is none, the import raises ImportError, which is what
Python expects then.
"""

import importlib
import os
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent
_ROOT = str(_FOLDER.parents[2])


def _start(text: str) -> None:
    sys.path[:] = [entry for entry in sys.path if entry != str(_FOLDER)]
    sys.path.append(_ROOT)  # for an interpreter in whose environment gradscope is not installed
    try:
        from gradscope.launch.start import start  # noqa: PLC0415 - only in a process of `gradscope run`

        start(text)
    finally:
        sys.path.remove(_ROOT) if _ROOT not in sys.path[:-1] else sys.path.pop()


if __name__ == "sitecustomize" and "GRADSCOPE_RUN" in os.environ:
    _start(os.environ["GRADSCOPE_RUN"])
    del sys.modules[__name__]
    importlib.import_module(__name__)  # the one of the environment
