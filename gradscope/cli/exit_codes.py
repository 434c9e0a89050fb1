"""The exit codes of the command, and printing of errors.

| code | meaning |
|---|---|
| 0 | done |
| 1 | a check failed |
| 2 | wrong usage |
| 3 | nothing to connect to, no answer, or a recording that cannot be read |
| 4 | refused |
| 5 | the run that `gradscope wait` waits for has failed |
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
    RecordingError,
    UnsafePathError,
    UsageError,
)

__all__ = ["DONE", "FAILED", "INTERRUPTED", "WRONG", "exit_code", "leave_pipe_quietly", "print_error"]

DONE = 0
WRONG = 1
FAILED = 5
INTERRUPTED = 130

_CODES: tuple[tuple[type[GradscopeError], int], ...] = (
    (UsageError, 2),
    (NothingToConnectError, 3),
    (LinkError, 3),
    (IncompatibleError, 3),
    (RecordingError, 3),
    (UnsafePathError, 3),
    (CommandRefusedError, 4),
)


def exit_code(error: GradscopeError) -> int:
    """Return the exit code of an error; 1 for errors without a code of their own."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), WRONG)


def print_error(text: str) -> None:
    """Print an error message to stderr."""
    sys.stderr.write(f"gradscope: {text}\n")


def leave_pipe_quietly() -> int:
    """Return the exit code for a closed stdout, as in `gradscope ls | head -1`.

    Redirects stdout to /dev/null, because the interpreter flushes stdout at exit and would report an
    error.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return DONE
