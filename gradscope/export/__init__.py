"""Writes the recorded data of a run for other programs: CSV, JSON lines, Parquet, and TensorBoard's event files."""

from gradscope.export.write import Format, export_run

__all__ = ["Format", "export_run"]
