"""Formats byte counts and durations as text."""

from typing import Final

__all__ = ["bytes_in_words", "seconds_in_words"]

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_TIMES: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def bytes_in_words(size_bytes: float) -> str:
    """Return a size with three digits and a binary unit, such as `32.0 MiB`."""
    size, unit = float(size_bytes), 0
    while abs(size) >= 999.5 and unit < len(_SIZES) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} B" if unit == 0 else f"{_three_digits(size)} {_SIZES[unit]}"


def seconds_in_words(seconds: float) -> str:
    """Return a time with three digits and a unit, such as `1.24 ms`."""
    for scale, unit in _TIMES:
        if abs(seconds) >= 0.9995 * scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{seconds * 1e6:.2f} µs" if seconds else "0 s"


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
