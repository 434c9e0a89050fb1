"""OpenTelemetry: metrics over OTLP and HTTP, to the collector that the variables OTEL_EXPORTER_OTLP_* name."""

import time
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gradscope.errors import UsageError
from gradscope.findings import Finding
from gradscope.trackers.tracker import Destination

__all__ = ["open_run"]

_BATCH = 500
"""Points that are sent together."""

_BATCH_S = 2.0


def open_run(name: str, destination: Destination) -> "_Run":
    """Open a run: the instance NAME of the service PROJECT. Raises UsageError if a directory is given."""
    if destination.directory is not None:
        raise UsageError(
            "OpenTelemetry writes no files, so --dir has no meaning; "
            "OTEL_EXPORTER_OTLP_ENDPOINT is the address of the collector"
        )
    return _Run(
        Resource.create({"service.name": destination.project, "service.instance.id": name}),
        OTLPMetricExporter(),
    )


class _Run:
    """Each point is a gauge of its own time. OpenTelemetry has no steps, so that the step is a gauge, too."""

    def __init__(self, resource: Resource, exporter: OTLPMetricExporter) -> None:
        self._resource = resource
        self._exporter = exporter
        self._pending: dict[str, list[NumberDataPoint]] = {}
        self._count = 0
        self._sent_s = time.monotonic()

    def log(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        self._add(time_s, {"gradscope/step": step, **values}, {})

    def report(self, step: int, time_s: float, finding: Finding) -> None:
        attributes = {
            "code": finding.code,
            "severity": finding.severity,
            "layers": ", ".join(finding.layers),
            "message": finding.message,
        }
        self._add(time_s, {"gradscope/finding": step}, attributes)
        self._send()

    def close(self) -> None:
        try:
            self._send()
        finally:
            self._exporter.shutdown()

    def _add(self, time_s: float, values: Mapping[str, float], attributes: Mapping[str, str]) -> None:
        at_ns = int((time_s or time.time()) * 1e9)
        for name, value in values.items():
            point = NumberDataPoint(dict(attributes), at_ns, at_ns, value)
            self._pending.setdefault(name, []).append(point)
        self._count += len(values)
        if self._count >= _BATCH or time.monotonic() - self._sent_s > _BATCH_S:
            self._send()

    def _send(self) -> None:
        """Send what is pending. Points that the collector refuses are not sent again."""
        pending, self._pending, self._count = self._pending, {}, 0
        self._sent_s = time.monotonic()
        if not pending:
            return
        metrics = [Metric(name, "", "1", Gauge(points)) for name, points in pending.items()]
        scope = ScopeMetrics(InstrumentationScope("gradscope"), metrics, "")
        sent = self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        if sent is not MetricExportResult.SUCCESS:
            raise ConnectionError("the OpenTelemetry collector did not accept the metrics")
