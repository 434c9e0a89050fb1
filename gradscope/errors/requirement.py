"""Says which package an integration needs, if it is missing or too old."""

import re
from importlib import metadata

from gradscope.errors import UsageError

__all__ = ["require"]


def require(package: str, oldest: str) -> None:
    """Raise UsageError with the line for pip unless a package is installed in this version or a newer one.

    oldest: the first version that is good, such as "2.5".
    """
    line = f"pip install '{package}>={oldest}'"
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        raise UsageError(f"{package} {oldest} or newer is needed and not installed: {line}") from None
    if _numbers(found) < _numbers(oldest):
        raise UsageError(f"{package} {oldest} or newer is needed, and {found} is installed: {line}")


def _numbers(version: str) -> list[int]:
    """Return the numbers at the beginning of a version: [2, 6, 6] of "2.6.6.post0"."""
    start = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in start[0].split(".")] if start else []
