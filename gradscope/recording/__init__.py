"""Recordings of runs: one SQLite file for each run, written by the hub, readable at any time."""

from gradscope.recording.reader import (
    Recording,
    RecordingInfo,
    list_recordings,
    open_recording,
)
from gradscope.recording.recorder import Recorder, default_path
from gradscope.recording.rounding import PRECISION, round_statistics

__all__ = [
    "PRECISION",
    "Recorder",
    "Recording",
    "RecordingInfo",
    "default_path",
    "list_recordings",
    "open_recording",
    "round_statistics",
]
