"""A recording as Arrow tables, which pandas, polars and pyarrow read. Needs pyarrow, loaded on use."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from gradscope.columns import COLUMNS, Block, Flags
from gradscope.columns.derived import DERIVATIONS
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol import Scalars, Step
from gradscope.protocol.bodies import unpack_block

if TYPE_CHECKING:
    import pyarrow

    from gradscope.recording.reader import Recording

__all__ = ["TableName", "arrow_reader"]

TableName: TypeAlias = Literal["statistics", "scalars"]

_DERIVED: Final = tuple(DERIVATIONS)


def arrow_reader(recording: "Recording", table: TableName) -> "pyarrow.RecordBatchReader":
    """Return a reader of one table of a recording, one batch for each message.

    statistics: a row for each observed step, rank, layer and kind, with the columns and what is derived from them;
        null: not measured. scalars: a row for each step, rank and name.

    Raises UsageError without pyarrow, and for another table.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional
    except ImportError as error:
        raise UsageError("this needs pyarrow, which is not installed: pip install pyarrow") from error
    if table == "scalars":
        schema = pa.schema(
            {"step": pa.int64(), "rank": pa.int64(), "time_s": pa.float64()}
            | {"name": pa.string(), "value": pa.float64()}
        )
        batches: Iterator[Any] = (_scalars(pa, schema, message) for message in recording.scalars())
    elif table == "statistics":
        numbers = {each.name: pa.uint64() if each.is_count else pa.float64() for each in COLUMNS}
        schema = pa.schema(
            {"step": pa.int64(), "rank": pa.int64(), "layer": pa.string(), "kind": pa.string()}
            | numbers
            | dict.fromkeys(_DERIVED, pa.float64())
        )
        batches = _statistics(pa, schema, recording)
    else:
        raise UsageError(f'expected the table "statistics" or "scalars", got {table!r}')
    return pa.RecordBatchReader.from_batches(schema, batches)


def _scalars(pa: Any, schema: Any, message: Scalars) -> Any:  # Any: pyarrow has no types
    count = len(message.steps)
    names = sorted(message.values)
    columns = [
        np.tile(np.array(message.steps, np.int64), len(names)),
        np.full(count * len(names), message.rank, np.int64),
        np.tile(np.array(message.times_s, np.float64), len(names)),
        [name for name in names for _ in range(count)],
        [value for name in names for value in message.values[name]],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _statistics(pa: Any, schema: Any, recording: "Recording") -> Iterator[Any]:  # Any: as above
    layers = recording.layers_by_manifest()
    for step in recording.steps():
        names = layers.get((step.rank, step.manifest_revision))
        try:
            block = unpack_block(step)
        except ProtocolError:  # a body that its sender has not packed as its head says
            continue
        if names is not None and (not len(block) or int(block.layer.max()) < len(names)):
            yield _batch(pa, schema, step, block, names)


def _batch(
    pa: Any, schema: Any, step: Step, block: Block, names: Sequence[str]
) -> Any:  # Any: as above
    unknown = (block.flags & Flags.NOT_MEASURED).astype(bool)
    count = len(block)
    arrays: list[Any] = [
        pa.array(np.full(count, step.step, np.int64)),
        pa.array(np.full(count, step.rank, np.int64)),
        pa.array([names[index] for index in block.layer], pa.string()),
        pa.array([step.kinds[index] for index in block.kind], pa.string()),
    ]
    for column in COLUMNS:
        kind = schema.field(column.name).type
        values = block.values.get(column.name)
        if values is None:
            arrays.append(pa.nulls(count, kind))
        else:
            wide = values.astype(np.uint64 if column.is_count else np.float64)
            arrays.append(pa.array(wide, kind, mask=unknown))
    for name in _DERIVED:
        values = block.derive(name)
        arrays.append(pa.array(values, pa.float64(), mask=unknown | np.isnan(values)))
    return pa.record_batch(arrays, schema=schema)
