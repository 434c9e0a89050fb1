"""MLflow: the store of `MLFLOW_TRACKING_URI`, or a SQLite file."""

import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric

from gradscope.findings import Finding
from gradscope.trackers.tracker import Destination

__all__ = ["open_run"]

_BATCH = 500
"""Metrics that are sent together. MLflow takes at most 1,000."""

_BATCH_S = 2.0
_TEXT_LIMIT = 5_000
"""MLflow accepts values of tags of this length in each of its stores."""


def open_run(name: str, destination: Destination) -> "_Run":
    """Open a run of the experiment PROJECT, in the store DIRECTORY/mlflow.db if a directory is given."""
    uri = None
    if destination.directory is not None:
        destination.directory.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{destination.directory.absolute() / 'mlflow.db'}"
    elif not os.environ.get("MLFLOW_TRACKING_URI"):
        uri = "sqlite:///mlflow.db"
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(destination.project)
    experiment = found.experiment_id if found else client.create_experiment(destination.project)
    return _Run(client, client.create_run(experiment, run_name=name).info.run_id)


class _Run:
    def __init__(self, client: MlflowClient, id: str) -> None:
        self._client = client
        self._id = id
        self._pending: list[Metric] = []
        self._sent_s = time.monotonic()

    def log(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        when_ms = int((time_s or time.time()) * 1000)
        self._pending += [Metric(name, value, when_ms, step) for name, value in values.items()]
        if len(self._pending) >= _BATCH or time.monotonic() - self._sent_s > _BATCH_S:
            self._send()

    def report(self, step: int, time_s: float, finding: Finding) -> None:  # noqa: ARG002 - a tag has no time
        text = f"{finding.severity}, step {step}: {finding.message}. {finding.fix}"
        self._client.set_tag(self._id, f"gradscope.{finding.code}", text[:_TEXT_LIMIT])

    def close(self) -> None:
        self._send()
        self._client.set_terminated(self._id)

    def _send(self) -> None:
        """Send what is pending. Metrics that MLflow refuses are not sent again."""
        pending, self._pending, self._sent_s = self._pending, [], time.monotonic()
        for start in range(0, len(pending), _BATCH):
            self._client.log_batch(self._id, metrics=pending[start : start + _BATCH])
