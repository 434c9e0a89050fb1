"""Writes tables: CSV, JSON lines and Parquet. Each writer takes rows of a step at a time and keeps few of them."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.export.selection import Rows, is_whole_number
from gradscope.findings import plain_value

__all__ = ["write_csv", "write_json_lines", "write_parquet"]

_BATCH: Final = 65_536
"""Rows of a row group of Parquet."""

_Value: TypeAlias = float | int | str | None


def write_csv(file: IO[str], stats: Sequence[str], steps: Iterable[Rows]) -> int:
    """Write rows with a line of titles; return how many. What was not measured is empty."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", "time_s", "layer", "kind", *stats, "flags"])
    count = 0
    for rows in steps:
        writer.writerows(_lines(rows))
        count += len(rows)
    return count


def write_json_lines(file: IO[str], stats: Sequence[str], steps: Iterable[Rows]) -> int:
    """Write an object for each row; return how many. What was not measured is null; infinity is the text "inf"."""
    names = ("step", "time_s", "layer", "kind", *stats, "flags")
    count = 0
    for rows in steps:
        for line in _lines(rows):
            row = {name: plain_value(value) for name, value in zip(names, line, strict=True)}
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        count += len(rows)
    return count


def write_parquet(path: Path, stats: Sequence[str], steps: Iterable[Rows]) -> int:
    """Write a Parquet file; return the number of rows. What was not measured is null."""
    import pyarrow  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415 - optional

    words = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    numbers = [
        (stat, pyarrow.int64() if is_whole_number(stat) else pyarrow.float64()) for stat in stats
    ]
    schema = pyarrow.schema(
        [("step", pyarrow.int64()), ("time_s", pyarrow.float64()), ("layer", words), ("kind", words),
         *numbers, ("flags", words)]
    )  # fmt: skip
    count = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(steps):
            columns = _arrow_columns(pyarrow, batch, numbers)
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            count += sum(map(len, batch))
    return count


def _batches(steps: Iterable[Rows]) -> Iterator[list[Rows]]:
    batch: list[Rows] = []
    for rows in steps:
        batch.append(rows)
        if sum(map(len, batch)) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _arrow_columns(
    pyarrow: Any, batch: Sequence[Rows], numbers: Sequence[tuple[str, Any]]
) -> list[Any]:
    # Any: pyarrow may be missing, and has no types
    def words(texts: list[str]) -> Any:
        return pyarrow.array(texts, pyarrow.string()).dictionary_encode()

    columns = [
        pyarrow.array(np.repeat([rows.step for rows in batch], [len(rows) for rows in batch])),
        pyarrow.array(np.repeat([rows.time_s for rows in batch], [len(rows) for rows in batch])),
        words([name for rows in batch for name in rows.layers]),
        words([kind for rows in batch for kind in rows.kinds]),
    ]
    for stat, kind in numbers:
        values = np.concatenate([rows.values[stat] for rows in batch])
        unknown = np.isnan(values)
        columns.append(pyarrow.array(np.where(unknown, 0, values), mask=unknown).cast(kind))
    return [*columns, words([flags for rows in batch for flags in rows.flags])]


def _lines(rows: Rows) -> Iterator[list[_Value]]:
    columns = [_plain(values, is_whole=is_whole_number(stat)) for stat, values in rows.values.items()]
    for place, (layer, kind, flags) in enumerate(zip(rows.layers, rows.kinds, rows.flags, strict=True)):
        yield [rows.step, rows.time_s, layer, kind, *(column[place] for column in columns), flags]


def _plain(values: NDArray[np.float64], *, is_whole: bool) -> list[_Value]:
    """Return numbers for text; None for NaN."""
    if is_whole:
        return [None if value != value else int(value) for value in values.tolist()]  # noqa: PLR0124 - only NaN differs
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - as above
