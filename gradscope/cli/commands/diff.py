"""`gradscope diff`: where two recorded runs part. The exit code is 0 if they are equal, and 1 if they differ."""

import contextlib

from gradscope.cli.exit_codes import DONE, WRONG
from gradscope.cli.output import print_json, print_lines
from gradscope.comparison import compare_runs, open_side
from gradscope.comparison.text import as_json as plain
from gradscope.comparison.text import as_lines
from gradscope.errors import UsageError

__all__ = ["diff"]


def diff(
    a: str,
    b: str | None,
    *,
    ranks: str | None,
    rtol: float | None,
    first_step: int | None,
    last_step: int | None,
    as_json: bool,
) -> int:
    """Compare two runs, or two ranks of run `a`, and return the exit code.

    Raises UsageError for wrong arguments, NothingToConnectError if there is no such run, and RecordingError if the
    runs cannot be compared.
    """
    one, two = _sides(a, b, ranks)
    with contextlib.ExitStack() as opened:
        comparison = compare_runs(
            opened.enter_context(open_side(one)),
            opened.enter_context(open_side(two)),
            rtol=rtol,
            first_step=first_step,
            last_step=last_step,
        )
    if as_json:
        print_json(plain(comparison))
    else:
        print_lines(*as_lines(comparison))
    return DONE if comparison.first is None else WRONG


def _sides(a: str, b: str | None, ranks: str | None) -> tuple[str, str]:
    if ranks is None:
        if b is None:
            raise UsageError("expected two runs, or --ranks with two ranks of one run; got one run")
        return a, b
    numbers = ranks.split(",")
    if b is not None or len(numbers) != 2 or not all(number.strip().isdigit() for number in numbers):
        raise UsageError(f"expected one run and two ranks, such as --ranks 0,1; got --ranks {ranks}")
    return f"{a}:rank{int(numbers[0])}", f"{a}:rank{int(numbers[1])}"
