"""The layer table as text, printed once: for pipes, logs, CI and screen readers.

It uses the store, columns and formats of the screen. Nothing depends on colour alone: a sign or a
word has the same information.
"""

import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.color import ColorSystem
from rich.style import Style

from gradscope.errors import LinkError
from gradscope.protocol import Backfill
from gradscope.recording import Recording
from gradscope_tui.store.recorded import RecordedRun
from gradscope_tui.store.run import RunStore
from gradscope_tui.store.session import Session, end_of
from gradscope_tui.view.cell import Cell, Role, printable
from gradscope_tui.view.findings import findings_text, verdict_line
from gradscope_tui.view.intervention_text import intervention_line
from gradscope_tui.view.layout import choose_columns
from gradscope_tui.view.rank_strip import rank_lines
from gradscope_tui.view.resources import exhausted_text, head_lines, layer_header, layer_rows
from gradscope_tui.view.rows import RowOrder, list_rows
from gradscope_tui.view.status import Status, status_cells, status_of
from gradscope_tui.view.table import TableView, by_layer, header_cells, row_cells

if TYPE_CHECKING:
    from gradscope.client import Client

__all__ = ["memory_text", "render_once", "render_recorded", "table_text"]

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


def render_once(client: "Client", *, color: bool, width: int, tab: str = "layers") -> str:
    """Return the newest step of the client's run, or of the only live one, as a table.

    Each call subscribes again. Raises NothingToConnectError if there is no run to choose, and LinkError
    if no step arrives in 10 s, or if the run has ended without one.
    """
    from gradscope.client.run_selection import only_live_run  # noqa: PLC0415 - gradscope.client loads zmq

    session = Session()
    store = session.watch(client.run or only_live_run(client.runs()))
    client.watch(store.run, ranks="merged")
    deadline = time.monotonic() + _TIMEOUT_S
    is_backfilled = False
    while not (is_backfilled and store.revision is not None and (store.newest or tab != "layers")):
        end = end_of(client.runs(), store.run) if is_backfilled else None
        if end is not None:
            raise LinkError(f"run {store.run!r} ended without an observed step: {end.reason}")
        if time.monotonic() > deadline:
            raise LinkError(
                f"no step of run {store.run!r} arrived in {_TIMEOUT_S:g} s; its steps may be slow, or "
                "none of them is observed"
            )
        for message in client.receive(0.1):
            session.feed(message)
            is_backfilled |= isinstance(message, Backfill) and message.state == "end"
    store.rank_states = client.rank_states().get(store.run)
    if tab == "memory":
        return memory_text(store, color=color, width=width)
    if tab == "findings":
        return findings_text(store.verdict, store.events, max(width, _LEAST_WIDTH))
    status = replace(status_of(store, end_of(client.runs(), store.run)), phase=client.link.phase)
    return table_text(store, status, color=color, width=width)


def render_recorded(
    recording: Recording, *, color: bool, width: int, tab: str = "layers", step: int | None = None
) -> str:
    """Return a step of a recording, by default the newest, as a table, in the format of `render_once`."""
    run = RecordedRun(recording)
    place = run.last_place if step is None else run.place_of(step)
    store = run.store_at(place)
    if tab == "memory":
        return memory_text(store, color=color, width=width)
    if tab == "findings":
        return findings_text(store.verdict, store.events, max(width, _LEAST_WIDTH))
    status = status_of(store, None)
    if run.is_ended and place == run.last_place:
        status = replace(status, is_ended=True, end_reason=run.reason)
    else:
        status = replace(status, recording="■ recording, not live")
    return table_text(store, replace(status, phase="up"), color=color, width=width)


def memory_text(store: RunStore, *, color: bool, width: int) -> str:
    """Return memory and time of the newest measured step as text, with bars and a line for each layer."""
    width = max(width, _LEAST_WIDTH)
    accounts = [entry.text for entry in store.journal if exhausted_text([entry.text])]
    last = "".join(accounts[-1:]).splitlines()
    lines: list[Sequence[Cell]] = [(Cell(printable(line), "above3"),) for line in last]
    if store.resources.memory is None and store.resources.times is None:
        lines.append((Cell("No memory data yet."),))
    else:
        lines += head_lines(store.resources, "", width)
        lines.append(layer_header(width))
        lines += [(Cell(" "), *row) for row in layer_rows(store.resources, width - 1)]
    return "\n".join(_rendered_line(cells, color=color) for cells in lines) + "\n"


def table_text(store: RunStore, status: Status, *, color: bool, width: int) -> str:
    """Return a store's newest step as text, with status, interventions, and a line for each layer."""
    width = max(width, _LEAST_WIDTH)
    frame = store.frame()
    order = RowOrder()
    listing = list_rows(frame, order, ())
    view = TableView(frame, listing, order, choose_columns(width), by_layer(store.interventions))
    (verdict,) = verdict_line(store.verdict)
    lines: list[Sequence[Cell]] = [
        (Cell(text, verdict.role),)
        for text in textwrap.wrap(verdict.text, width, subsequent_indent="   ", drop_whitespace=False)
    ]
    lines.append(status_cells(status, width))
    lines += rank_lines(store.rank_states, width)
    lines += [(Cell(f" ◆ {intervention_line(state)}", "alarm"),) for state in store.interventions]
    lines.append(header_cells(view))
    lines += [(Cell(" "), *row_cells(view, row)) for row in range(len(listing.nodes))]
    return "\n".join(_rendered_line(cells, color=color) for cells in lines) + "\n"


def _rendered_line(cells: Iterable[Cell], *, color: bool) -> str:
    if not color:
        return "".join(cell.text for cell in cells).rstrip()
    parts = []
    for cell in cells:
        style = _STYLES.get(cell.role)
        parts.append(style.render(cell.text, color_system=ColorSystem.STANDARD) if style else cell.text)
    return "".join(parts).rstrip()
