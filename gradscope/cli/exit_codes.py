"""How a command ends: its exit code, and the one place where errors are printed.

| code | meaning |
|---|---|
| 0 | done |
| 1 | what was checked does not hold |
| 2 | wrong usage |
| 3 | nothing to connect to, or no answer |
| 4 | refused |
| 130 | interrupted |

Results go to stdout, everything else to stderr.
"""

import os
import sys

from gradscope.errors import (
    CommandRefusedError,
    GradscopeError,
    IncompatibleError,
    LinkError,
    NothingToConnectError,
    UnsafePathError,
    UsageError,
)

__all__ = ["DONE", "INTERRUPTED", "WRONG", "complain", "exit_code", "leave_pipe_quietly"]

DONE = 0
WRONG = 1
INTERRUPTED = 130

_CODES: tuple[tuple[type[GradscopeError], int], ...] = (
    (UsageError, 2),
    (NothingToConnectError, 3),
    (LinkError, 3),
    (IncompatibleError, 3),
    (UnsafePathError, 3),
    (CommandRefusedError, 4),
)


def exit_code(error: GradscopeError) -> int:
    """Return the code with which an error ends the command; 1 for one that has none of its own."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), WRONG)


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    sys.stderr.write(f"gradscope: {text}\n")


def leave_pipe_quietly() -> int:
    """Return the exit code for a reader that has gone, as in `gradscope ls | head -1`.

    Writing to it ends here: the interpreter would flush stdout once more at its end, and complain.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return DONE
