"""`Tracker`: what the clients of all trackers can do, and what opens one of them by name."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from gradscope.errors import UsageError
from gradscope.errors.requirement import require_one
from gradscope.findings import Finding

__all__ = ["Destination", "Tracker", "open_tracker"]


class Tracker(Protocol):
    """One run of a tracker. Its methods raise what the client of the tracker raises."""

    def log(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        """Log numbers of one step. Steps of different series may arrive in any order."""

    def report(self, step: int, time_s: float, finding: Finding) -> None:
        """Log a finding: as an alert, a tag or a text."""

    def close(self) -> None:
        """Write what is pending."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where numbers go. `tracker`: a key of the table below.

    directory: for files; None: where the tracker puts them by itself. project: of the tracker. name: of its run;
        None: that of the run.
    """

    tracker: str
    directory: Path | None = None
    project: str = "gradscope"
    name: str | None = None


_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "tensorboard": (("tensorboard",), "2.20"),
    "wandb": (("wandb",), "0.22"),
    "mlflow": (("mlflow", "mlflow-skinny"), "3.1"),
    "trackio": (("trackio",), "0.43"),
    "opentelemetry": (("opentelemetry-exporter-otlp-proto-http",), "1.34"),
}
"""For each tracker the packages of which one is needed, and the oldest version."""


def open_tracker(run: str, destination: Destination) -> Tracker:
    """Open a run of a tracker. Raises UsageError for an unknown tracker, and for a missing or old package."""
    if destination.tracker not in _PACKAGES:
        known = ", ".join(_PACKAGES)
        raise UsageError(f"expected --to to be one of {known}, got {destination.tracker!r}")
    packages, oldest = _PACKAGES[destination.tracker]
    require_one(packages, oldest)
    module = importlib.import_module(f"gradscope.trackers.to_{destination.tracker}")
    return cast("Tracker", module.open_run(destination.name or run, destination))
