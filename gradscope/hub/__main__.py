"""`python -m gradscope.hub [--detach] [DIRECTORY]`: run the hub of a runtime directory.

With `--detach`, the hub continues in a child process. The started process ends when a hub listens (exit
code 0, also if another hub was first) or has failed to start (exit code 1).
"""

import os
import sys
from pathlib import Path

_USAGE = "usage: python -m gradscope.hub [--detach] [DIRECTORY]"


def main(arguments: list[str]) -> int:
    """Run a hub; return the exit code."""
    is_detached = "--detach" in arguments
    rest = [argument for argument in arguments if argument != "--detach"]
    if len(rest) > 1 or any(argument.startswith("-") for argument in rest):
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    ready_fd = _detach() if is_detached else None
    from gradscope.hub.process import serve  # noqa: PLC0415 - detach first

    return serve(Path(rest[0]) if rest else None, ready_fd)


def _detach() -> int:
    """Continue in a child process. The parent waits until the child writes to the returned descriptor."""
    read_fd, write_fd = os.pipe()
    if os.fork() == 0:
        os.close(read_fd)
        return write_fd
    os.close(write_fd)
    os._exit(0 if os.read(read_fd, 1) else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
