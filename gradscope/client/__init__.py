"""The viewer's side of the link: observe and change a run from a script, the command line or the UI."""

from gradscope.client.as_python import python_lines
from gradscope.client.captured_tensors import CapturedArray, Channels
from gradscope.client.client import Client
from gradscope.client.connection import connect
from gradscope.client.run_selection import end_of, find_run, live_runs, only_live_run

__all__ = [
    "CapturedArray",
    "Channels",
    "Client",
    "connect",
    "end_of",
    "find_run",
    "live_runs",
    "only_live_run",
    "python_lines",
]
