"""What is known about a run, live or ended: its messages from the hub and its recording, the verdict, a snapshot."""

from gradscope.history.run_history import RunHistory, read_history
from gradscope.history.snapshot import TABLES, layer_cells, snapshot_as_json, snapshot_lines

__all__ = [
    "TABLES",
    "RunHistory",
    "layer_cells",
    "read_history",
    "snapshot_as_json",
    "snapshot_lines",
]
