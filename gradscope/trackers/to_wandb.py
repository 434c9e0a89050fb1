"""Weights & Biases, online or offline (`WANDB_MODE=offline`)."""

from collections.abc import Mapping
from typing import Any

import wandb

from gradscope.findings import Finding
from gradscope.trackers.tracker import Destination

__all__ = ["open_run"]

_LEVELS = {"error": "ERROR", "warning": "WARN", "hint": "INFO"}
_TITLE_LIMIT = 63


def open_run(name: str, destination: Destination) -> "_Run":
    """Open a run. Its x axis is the training's step: W&B's own step can not go back, but series arrive in turns."""
    directory = destination.directory
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(console="off", x_disable_stats=True, silent=True)
    run = wandb.init(
        project=destination.project,
        name=name,
        dir=None if directory is None else str(directory),
        settings=settings,
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return _Run(run)


class _Run:
    def __init__(self, run: Any) -> None:  # Any: wandb's type
        self._run = run

    def log(self, step: int, time_s: float, values: Mapping[str, float]) -> None:  # noqa: ARG002 - W&B has its own clock
        self._run.log({"step": step, **values})

    def report(self, step: int, time_s: float, finding: Finding) -> None:  # noqa: ARG002 - as above
        title = f"gradscope: {finding.code}"[:_TITLE_LIMIT]
        text = f"step {step}: {finding.message}. {finding.fix}"
        self._run.alert(title=title, text=text, level=_LEVELS[finding.severity])
        self._run.summary[f"gradscope/{finding.code}"] = finding.message

    def close(self) -> None:
        self._run.finish()
