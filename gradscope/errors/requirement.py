"""Says which package an integration needs, if it is missing or too old."""

import re
from collections.abc import Sequence
from importlib import metadata

from gradscope.errors import UsageError

__all__ = ["require", "require_one"]


def require(package: str, oldest: str) -> None:
    """Raise UsageError with the line for pip unless a package is installed in this version or a newer one.

    oldest: the first version that is good, such as "2.5".
    """
    require_one((package,), oldest)


def require_one(packages: Sequence[str], oldest: str) -> None:
    """Do the same for a package of several names, such as mlflow and mlflow-skinny: one of them must be installed."""
    package = packages[0]
    line = f"pip install '{package}>={oldest}'"
    found = next((version for name in packages if (version := _version(name))), None)
    if found is None:
        raise UsageError(f"{package} {oldest} or newer is needed and not installed: {line}")
    if _numbers(found) < _numbers(oldest):
        raise UsageError(f"{package} {oldest} or newer is needed, and {found} is installed: {line}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    """Return the numbers at the beginning of a version: [2, 6, 6] of "2.6.6.post0"."""
    start = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in start[0].split(".")] if start else []
