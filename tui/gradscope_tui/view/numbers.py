"""Numbers as text: three significant digits, aligned decimal points, units.

A number has `NUMBER_WIDTH` cells: three before the point, seven from it on. It has an exponent below 0.01
and from 1,000 on.
"""

import math

__all__ = [
    "NUMBER_WIDTH",
    "aligned",
    "count",
    "duration",
    "ordinal",
    "percent",
    "plain_number",
    "scalar",
    "short_number",
]

NUMBER_WIDTH = 10
_BEFORE_POINT = 3


def plain_number(value: float) -> str:
    """Return a finite number with three significant digits."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    rounded = round(value, 2 - exponent)
    if rounded and math.floor(math.log10(abs(rounded))) > exponent:
        exponent += 1
    if -2 <= exponent <= 2:
        return f"{rounded:.{2 - exponent}f}"
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(power)}"


def aligned(value: float) -> str:
    """Return a number in NUMBER_WIDTH cells, with the decimal point after three cells if there is room."""
    text = plain_number(value)
    point = next((i for i, char in enumerate(text) if char in ".e"), len(text))
    before = min(_BEFORE_POINT - point, NUMBER_WIDTH - len(text))
    return (" " * before + text).ljust(NUMBER_WIDTH)


def scalar(value: float) -> str:
    """Return a logged scalar, such as a loss, with four significant digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    mantissa, _, power = f"{value:.3e}".partition("e")
    return f"{mantissa}e{int(power)}"


def count(value: float) -> str:
    """Return a count in at most five cells: 12, 9,876, 12.3k, 1.2M."""
    if value < 10_000:
        return f"{int(value):,}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < size * 999.5 or unit == "G":
            scaled = value / size
            return f"{scaled:.1f}{unit}" if scaled < 99.95 else f"{scaled:.0f}{unit}"
    return f"{value:.1e}"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, 11th, 21st and so on."""
    is_teen = number % 100 in (11, 12, 13)
    ending = "th" if is_teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def percent(fraction: float) -> str:
    """Return a fraction in per cent."""
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"


def duration(seconds: float) -> str:
    """Return a time with a suitable unit: 3 s, 4 min, 2 h 5 min."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(int(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def short_number(ratio: float) -> str:
    """Return a number of at least 0 in a few cells, with one or two significant digits: 0.42, 12, 3e-6."""
    if 0.01 <= ratio < 1000:
        return f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"
    mantissa, _, power = f"{ratio:.0e}".partition("e")
    return f"{mantissa}e{int(power)}" if ratio else "0"
