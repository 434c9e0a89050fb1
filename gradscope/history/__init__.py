"""What is known about a run, live or ended: its messages from the hub and its recording, the verdict, a snapshot."""

from gradscope.history.quantities import QUANTITIES, layer_quantities
from gradscope.history.recorded_steps import RecordedStep, layer_names, recorded_steps, recording_path
from gradscope.history.run_history import RunHistory, read_history
from gradscope.history.snapshot import TABLES, layer_cells, snapshot_as_json, snapshot_lines

__all__ = [
    "QUANTITIES",
    "TABLES",
    "RecordedStep",
    "RunHistory",
    "layer_cells",
    "layer_names",
    "layer_quantities",
    "read_history",
    "recorded_steps",
    "recording_path",
    "snapshot_as_json",
    "snapshot_lines",
]
