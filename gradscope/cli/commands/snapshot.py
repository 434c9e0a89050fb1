"""`gradscope snapshot`: what a person or an assistant needs to judge one step of a run, in under 4,000 tokens."""

from collections.abc import Sequence

from gradscope.cli.output import print_lines, table_lines
from gradscope.findings import compact_json
from gradscope.history import TABLES, layer_cells, read_history, snapshot_as_json, snapshot_lines

__all__ = ["print_snapshot"]


def print_snapshot(
    run: str, *, around: int | None = None, layers: Sequence[str] = (), as_json: bool = False
) -> None:
    """Print the snapshot. `run` is the name of a run or the path of a recording.

    Raises NothingToConnectError if there is neither a run nor a recording of this name, and UnknownLayerError
    if a name or pattern matches no layer.
    """
    history = read_history(run, around=around, tables=TABLES)
    document = snapshot_as_json(history, around=around, layers=layers)
    if as_json:
        print_lines(compact_json(document))
        return
    print_lines(*snapshot_lines(document))
    if document["layers"]:
        print_lines("", *table_lines(document["columns"], layer_cells(document)))
    if "note" in document["left_out"]:
        print_lines("", document["left_out"]["note"])
