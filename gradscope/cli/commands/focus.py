"""`gradscope focus`: prints one line for each layer in each focus step."""

from contextlib import suppress
from itertools import islice

from gradscope.cli.connection import connect_to
from gradscope.cli.output import say
from gradscope.columns import LayerRows
from gradscope.errors import GradscopeError

__all__ = ["focus"]

_NUMBERS = (
    ("out", "std", "std"),
    ("grad", "norm", "|∇out|"),
    ("param_grad", "norm", "|∇w|"),
    ("update", "norm", "|Δw|"),
)


def focus(run: str, layers: list[str], steps: int | None, *, timeout_s: float) -> None:
    """Print one line for each layer in each focus step, until N steps, the end of the run, or Ctrl-C."""
    with connect_to(run) as client:
        ack = client.focus(*layers, timeout_s=timeout_s)
        say(f"in the focus from step {ack.step} on: {', '.join(ack.layers)}")
        try:
            for table in islice(client.focus_steps(), steps):
                for layer, rows in table.items():
                    say(f"step {table.step}  {layer}  {_in_words(rows)}  every {table.every}")
        finally:
            with suppress(GradscopeError):  # the focus ends with this client in any case
                client.focus(timeout_s=timeout_s)


def _in_words(rows: LayerRows) -> str:
    found = [(title, getattr(rows[kind], name)) for kind, name, title in _NUMBERS if kind in rows]
    return "  ".join(f"{title} {value:.4g}" for title, value in found)
