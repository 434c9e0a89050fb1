"""TensorBoard: event files, written by the package tensorboard alone."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradscope.findings import Finding
from gradscope.trackers.tracker import Destination

__all__ = ["open_run"]

_FLUSH_S = 5
_STRING = 7
"""DT_STRING of a tensor."""


def open_run(name: str, destination: Destination) -> "_EventFile":
    """Open an event file in DIRECTORY/NAME; the default directory is `runs`, as that of PyTorch's writer."""
    return _EventFile((destination.directory or Path("runs")) / name)


class _EventFile:
    def __init__(self, directory: Path) -> None:
        self._writer = EventFileWriter(str(directory), flush_secs=_FLUSH_S)

    def log(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, time_s, scalars)

    def report(self, step: int, time_s: float, finding: Finding) -> None:
        text = f"**{finding.severity}**: {finding.message}\n\n{finding.cause}\n\n{finding.fix}"
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=_STRING, string_val=[text.encode()], tensor_shape=shape)
        tag = f"gradscope/{finding.code}/text_summary"
        self._write(step, time_s, [Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, time_s: float, values: list[Summary.Value]) -> None:
        event = Event(wall_time=time_s or time.time(), step=step, summary=Summary(value=values))
        self._writer.add_event(event)
