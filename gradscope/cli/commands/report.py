"""`gradscope report`: what happened in a run, as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from gradscope.cli.output import print_result
from gradscope.columns import bytes_in_words
from gradscope.report import write_report

__all__ = ["report_run"]


def report_run(run: str, output: Path, *, layers: Sequence[str], force: bool, as_json: bool) -> None:
    """Write the report, and print where it is."""
    size_bytes = write_report(run, output, layers=layers, may_replace=force)
    document = {"run": run, "path": str(output.absolute()), "size_bytes": size_bytes}
    print_result(document, as_json, f"wrote {output} ({bytes_in_words(size_bytes)})")
