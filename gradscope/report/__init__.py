"""The report of a run: one HTML file without network that says what happened, for a person with a deadline."""

from gradscope.report.write import write_report

__all__ = ["write_report"]
