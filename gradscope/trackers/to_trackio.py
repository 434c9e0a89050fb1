"""Trackio: a SQLite file of this user, which `trackio show` displays."""

import os
from collections.abc import Mapping

from gradscope.findings import Finding
from gradscope.trackers.tracker import Destination

__all__ = ["open_run"]


def open_run(name: str, destination: Destination) -> "_Run":
    """Open a run of the project. Trackio reads its directory from the environment when it is imported."""
    if destination.directory is not None:
        os.environ["TRACKIO_DIR"] = str(destination.directory)
    return _Run(name, destination.project)


class _Run:
    def __init__(self, name: str, project: str) -> None:
        import trackio  # noqa: PLC0415 - after TRACKIO_DIR is set

        self._trackio = trackio
        self._run = trackio.init(
            project=project, name=name, embed=False, auto_log_gpu=False, auto_log_cpu=False
        )
        self._levels = {
            "error": trackio.AlertLevel.ERROR,
            "warning": trackio.AlertLevel.WARN,
            "hint": trackio.AlertLevel.INFO,
        }

    def log(self, step: int, time_s: float, values: Mapping[str, float]) -> None:  # noqa: ARG002 - Trackio has its own clock
        self._run.log(dict(values), step=step)

    def report(self, step: int, time_s: float, finding: Finding) -> None:  # noqa: ARG002 - as above
        text = f"step {step}: {finding.message}. {finding.fix}"
        self._run.alert(finding.code, text, self._levels[finding.severity])

    def close(self) -> None:
        self._trackio.finish()  # of the module: else it finishes the run once more at exit
