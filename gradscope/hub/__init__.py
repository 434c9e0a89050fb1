"""The broker between training processes and viewers: `python -m gradscope.hub`."""

from gradscope.hub.recorders import RecorderFactory
from gradscope.hub.server import Hub

__all__ = ["Hub", "RecorderFactory"]
