"""The same table without a screen: once, as text, for pipes, logs, CI and screen readers.

It is made from the same store, columns and formats as the screen. Without colour nothing is lost: what
a colour says stands in a sign or a word as well.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from rich.color import ColorSystem
from rich.style import Style

from gradscope.errors import LinkError, NothingToConnectError
from gradscope.protocol import Backfill, Message, RunInfo
from gradscope_tui.source import Link
from gradscope_tui.store import RunStore, Session
from gradscope_tui.view.cell import Cell, Role
from gradscope_tui.view.layout import choose_columns
from gradscope_tui.view.rows import RowOrder, list_rows
from gradscope_tui.view.status import status_cells, status_of
from gradscope_tui.view.table import TableView, by_layer, header_cells, row_cells
from gradscope_tui.view.words import whole_line

__all__ = ["Reader", "render_once", "table_text"]

_TIMEOUT_S = 10.0
_LEAST_WIDTH = 40

_STYLES: dict[Role, Style] = {
    "dim": Style(dim=True),
    "header": Style(dim=True),
    "title": Style(bold=True),
    "container": Style(bold=True),
    "merged": Style(italic=True, dim=True),
    "sampled": Style(italic=True),
    "above1": Style(color="yellow"),
    "above2": Style(color="yellow", bold=True),
    "above3": Style(color="red", bold=True),
    "below1": Style(color="blue"),
    "below2": Style(color="blue", bold=True),
    "below3": Style(color="magenta", bold=True),
    "bad": Style(color="white", bgcolor="red", bold=True),
    "spark": Style(color="cyan"),
    "active": Style(color="magenta", bold=True),
    "alarm": Style(color="white", bgcolor="magenta", bold=True),
    "pending": Style(color="magenta", italic=True),
    "good": Style(color="green"),
    "warning": Style(color="yellow", bold=True),
}


class Reader(Protocol):
    """The part of a client that is read from."""

    run: str | None

    @property
    def link(self) -> Link:
        """The state of the link to the hub."""

    def runs(self, timeout_s: float = 2.0) -> list[RunInfo]:
        """Return all ranks of all runs."""

    def watch(self, run: str, *, max_rate_hz: float = 4.0, backfill: bool = True) -> None:
        """Choose the run whose messages come."""

    def receive(self, timeout_s: float) -> list[Message]:
        """Wait for messages and return them in order."""


def render_once(client: Reader, *, color: bool, width: int) -> str:
    """Return the newest step of the client's run, or of the only live one, as a table.

    It subscribes anew each time, so it may be called again and again. Raises NothingToConnectError when
    there is no run to choose, and LinkError when no step comes in 10 s.
    """
    session = Session()
    store = session.watch(client.run or _only_live(client.runs()))
    client.watch(store.run)
    deadline = time.monotonic() + _TIMEOUT_S
    is_backfilled = False
    while not (is_backfilled and store.newest and store.revision is not None):
        if time.monotonic() > deadline:
            raise LinkError(
                f"no step of run {store.run!r} came in {_TIMEOUT_S:g} s; it may be between steps, or "
                "have nothing to show"
            )
        for message in client.receive(0.1):
            session.feed(message)
            is_backfilled |= isinstance(message, Backfill) and message.state == "end"
    info = next((i for i in client.runs() if i.run == store.run and i.rank == 0), None)
    is_ended = info is not None and not info.is_live
    return table_text(store, link=client.link, is_ended=is_ended, color=color, width=width)


def table_text(store: RunStore, *, link: Link, is_ended: bool, color: bool, width: int) -> str:
    """Return a store's newest step as text: the status, what is changed, and a line for each layer."""
    width = max(width, _LEAST_WIDTH)
    frame = store.frame()
    order = RowOrder()
    listing = list_rows(frame, order, ())
    view = TableView(frame, listing, order, choose_columns(width), by_layer(store.interventions))
    status = replace(status_of(store, is_ended=is_ended), phase=link.phase)
    lines: list[Sequence[Cell]] = [status_cells(status, width)]
    lines += [(Cell(f" ◆ {whole_line(state)}", "alarm"),) for state in store.interventions]
    lines.append(header_cells(view))
    lines += [(Cell(" "), *row_cells(view, row)) for row in range(len(listing.nodes))]
    return "\n".join(_line(cells, color=color) for cells in lines) + "\n"


def _only_live(runs: Iterable[RunInfo]) -> str:
    live = list(dict.fromkeys(info.run for info in runs if info.is_live))
    if len(live) == 1:
        return live[0]
    if live:
        raise NothingToConnectError(f"{len(live)} runs are live, name one of them: {', '.join(live)}")
    raise NothingToConnectError("no run is live; start a training that calls gradscope.attach(model)")


def _line(cells: Iterable[Cell], *, color: bool) -> str:
    if not color:
        return "".join(cell.text for cell in cells).rstrip()
    parts = []
    for cell in cells:
        style = _STYLES.get(cell.role)
        parts.append(style.render(cell.text, color_system=ColorSystem.STANDARD) if style else cell.text)
    return "".join(parts).rstrip()
