"""`new_output`: writes a file or a directory that a person named, so that it appears whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradscope.errors import UsageError

__all__ = ["new_output"]


@contextlib.contextmanager
def new_output(path: Path, *, may_replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a directory, and rename it to `path` at the end.

    If the block raises, the temporary path is removed and `path` is unchanged. may_replace: an existing file, or an
    existing directory that this function has made, is replaced.

    Raises UsageError if `path` exists, and if it cannot be written.
    """
    path = path.absolute()
    if not path.parent.is_dir():
        raise UsageError(
            f"expected a path in an existing directory, but there is no {path.parent}; create it first"
        )
    _check_replaceable(path, may_replace=may_replace)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield folder / "output"
        _check_replaceable(path, may_replace=may_replace)
        if path.is_dir():
            path.rename(folder / "replaced")
        os.replace(folder / "output", path)  # noqa: PTH105 - it replaces, whereas rename does not on every system
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(path: Path, *, may_replace: bool) -> None:
    if not (path.exists() or path.is_symlink()):
        return
    if not may_replace:
        raise UsageError(
            f"{path} exists and is not changed; choose another path, or replace it with --force"
        )
    if path.is_dir() and not all(
        each.name.startswith("events.out.tfevents.") for each in path.iterdir()
    ):
        raise UsageError(
            f"{path} is a directory with other files and is not replaced; choose another path"
        )


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be written ({error.strerror or error}); nothing was changed")
