"""A real training is forwarded with the real clients; what they wrote is read back by other means."""

import http.server
import json
import math
import os
import re
import shutil
import sqlite3
import struct
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import gradscope
from gradscope.cli.app import app
from gradscope.recording import default_path, open_recording
from gradscope.transport import hub_address
from support import fork_server
from support.hubs import end_hub
from support.waiting import wait_for

pytestmark = pytest.mark.processes
STEPS = 40
QUIET = {"WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def trained():
    """A recorded training with a finding; the loss, the learning rate and PyTorch's own total norms of its steps."""
    root = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADSCOPE_RUNTIME_DIR", str(root / "run"))
        patch.setenv("GRADSCOPE_DATA_DIR", str(root / "data"))
        patch.setenv("GRADSCOPE_HUB_IDLE_S", "120")
        patch.delenv("GRADSCOPE_HUB", raising=False)
        with start_forward("live", "tensorboard", root / "live", waits=True) as live:
            try:
                yield train(root, live)
            finally:
                live.kill()
                end_hub(hub_address())
    shutil.rmtree(root, ignore_errors=True)


def train(root, live):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1))
    model[2].weight = nn.Parameter(model[2].weight.detach())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    model[3] = nn.Linear(8, 1)  # after the optimizer was made: a finding
    losses, rates, norms, clipped = [], [], [], []
    with gradscope.attach(model, optimizer, name="live", every=1, quiet=True) as scope:
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = rate = 0.02 / (1 + step)
            model.zero_grad()
            loss = model(torch.randn(16, 4)).square().mean()
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
            gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
            clipped.append(nn.utils.get_total_norm(gradients).item())
            losses.append(loss.item())
            rates.append(rate)
            scope.log(loss=loss, lr=rate, odd=math.nan if step == 3 else 1.0)
            optimizer.step()
    wait_for(lambda: recorded_steps() == STEPS, "the recording of all steps")
    return SimpleNamespace(
        root=root, live=live, loss=losses, lr=rates, norm_before_clip=norms, norm=clipped
    )


def recorded_steps():
    if not default_path("live").is_file():
        return 0
    with open_recording(default_path("live")) as recording:
        return recording.info.steps


def start_forward(run, tracker, directory, *more, waits=False):
    """Start `gradscope forward`. It waits some seconds for a run that does not exist yet."""
    script = "from gradscope.cli import main; main()"
    to = [] if directory is None else ["--dir", directory]
    if waits:
        script = f"from gradscope.client import connection; connection._START_S = 60; {script}"
    return fork_server.Popen(
        [sys.executable, "-c", script, "forward", run, "--to", tracker, *to, *more],
        env=os.environ | QUIET,
        stdout=fork_server.subprocess.PIPE,
        stderr=fork_server.subprocess.PIPE,
        text=True,
    )


def forwarded(tracker, directory, *more):
    """Forward the ended run and return the document that the command prints."""
    with start_forward("live", tracker, directory, "--json", *more) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return json.loads(out)


def check(trained, series):
    """Compare series, {name: {step: value}}, with the numbers of the training."""
    assert series["loss"] == pytest.approx(dict(enumerate(trained.loss)), rel=1e-6)
    assert series["lr"] == pytest.approx(dict(enumerate(trained.lr)), rel=1e-6)
    before, after = series["grad_norm_before_clip"], series["gradscope/grad_norm"]
    assert before == pytest.approx(dict(enumerate(trained.norm_before_clip)), rel=1e-5)
    assert after == pytest.approx(dict(enumerate(trained.norm)), rel=1e-5)
    assert math.isnan(series["odd"][3])
    assert series["gradscope/layers_with_findings"][STEPS - 1] >= 1
    assert len(series) < 20
    assert not [name for name in series if name.startswith("layers/")]


def test_tensorboard_while_it_trains(trained):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, err = trained.live.communicate(timeout=60)
    assert trained.live.returncode == 0, err
    reader = EventAccumulator(str(trained.root / "live" / "live"), size_guidance={"scalars": 0})
    reader.Reload()
    tags = reader.Tags()
    check(trained, {tag: {e.step: e.value for e in reader.Scalars(tag)} for tag in tags["scalars"]})
    (tag,) = [tag for tag in tags["tensors"] if "stale-optimizer" in tag]
    assert b"SGD updates" in reader.Tensors(tag)[0].tensor_proto.string_val[0]


@pytest.mark.exhaustive  # `make test` does not install it; it takes long to make its database
def test_mlflow_from_the_recording(trained, tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    done = forwarded("mlflow", tmp_path, "--name", "mine")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        series = {}
        for name, step, value, is_nan in store.execute("SELECT key, step, value, is_nan FROM metrics"):
            series.setdefault(name, {})[step] = math.nan if is_nan else value
        tags = dict(store.execute("SELECT key, value FROM tags"))
    store.close()
    check(trained, series)
    assert done["points"] == sum(map(len, series.values()))
    assert tags["mlflow.runName"] == "mine"
    assert "SGD updates" in tags["gradscope.stale-optimizer"]


def test_wandb_offline(trained, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    forwarded("wandb", tmp_path)
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    series, alerts = {}, []
    for data in records_of(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            for name, value in row.items():
                series.setdefault(name, {})[row["step"]] = float(value)
        elif record.HasField("alert"):
            alerts.append(record.alert)
    for name in [name for name in series if name.startswith("_") or name == "step"]:
        del series[name]
    check(trained, series)
    (alert,) = [alert for alert in alerts if "stale-optimizer" in alert.title]
    assert "SGD updates" in alert.text


def records_of(file):
    """Yield the records of a file of W&B: LevelDB's log format, after a header of 7 bytes."""
    place, record = 7, b""
    while place < len(file):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", file, place)
        record += file[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, last
            yield record
            record = b""


@pytest.mark.exhaustive  # `make test` does not install it
def test_trackio(trained, tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed")
    forwarded("trackio", tmp_path, "--project", "p")
    store = sqlite3.connect(tmp_path / "p.db")
    series = {}
    for step, text in store.execute("SELECT step, metrics FROM metrics"):
        for name, value in json.loads(text).items():
            series.setdefault(name, {})[step] = float(value)
    alerts = dict(store.execute("SELECT title, text FROM alerts"))
    store.close()
    check(trained, series)
    assert "SGD updates" in alerts["stale-optimizer"]


@pytest.fixture
def collector(monkeypatch):
    """A server that keeps the bodies of the requests for /v1/metrics."""
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/metrics"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield bodies
        server.shutdown()
        thread.join()


@pytest.mark.exhaustive  # `make test` does not install it
def test_opentelemetry(trained, tmp_path, collector):
    pytest.importorskip("opentelemetry.exporter", reason="opentelemetry is not installed")
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    done = forwarded("opentelemetry", None, "--project", "p")
    points, findings = {}, {}
    for body in collector:
        request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
        (sent,) = request.resource_metrics
        of_service = {each.key: each.value.string_value for each in sent.resource.attributes}
        assert (of_service["service.name"], of_service["service.instance.id"]) == ("p", "live")
        (scope,) = sent.scope_metrics
        for metric in scope.metrics:
            for point in metric.gauge.data_points:
                value = point.as_int if point.HasField("as_int") else point.as_double
                points.setdefault(metric.name, {})[point.time_unix_nano] = value
                if point.attributes:
                    texts = {each.key: each.value.string_value for each in point.attributes}
                    findings[texts["code"]] = texts
    steps = points.pop("gradscope/step")
    del points["gradscope/finding"]
    series = {name: {steps[at]: v for at, v in of_one.items()} for name, of_one in points.items()}
    check(trained, series)
    assert done["points"] == sum(map(len, points.values()))
    assert "SGD updates" in findings["stale-optimizer"]["message"]


@pytest.mark.exhaustive  # `make test` does not install it
def test_opentelemetry_without_a_collector_is_reported(trained, tmp_path, monkeypatch):
    pytest.importorskip("opentelemetry.exporter", reason="opentelemetry is not installed")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with start_forward("live", "opentelemetry", None, "--json") as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert (
        "the tracker failed: ConnectionError: " in err
    )  # raised by older versions of the exporter itself
    assert json.loads(out)["failures"] > 0
    with start_forward("live", "opentelemetry", tmp_path) as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "--dir has no meaning" in err


def test_series_of_layers_are_forwarded_on_request_and_a_full_disk_is_reported(trained, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); from gradscope.cli import main; main()"
    )
    ran = fork_server.run(
        [sys.executable, "-c", limit, "forward", "live", "--to", "tensorboard", "--dir", tmp_path,
         "--layers", "*", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "the tracker failed: OSError: [Errno 27] File too large" in ran.stderr
    assert json.loads(ran.stdout)["failures"] > 0


def test_a_place_that_cannot_be_used_and_a_missing_package_are_errors(trained, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tmp_path / "file").write_text("")
    arguments = ["forward", "live", "--to", "tensorboard", "--dir", str(tmp_path / "file")]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 1
    assert "tensorboard cannot be used: " in ran.output

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 2
    assert "pip install 'tensorboard>=2.20'" in ran.output
    assert CliRunner().invoke(app, [*arguments[:2], "--to", "paper"]).exit_code == 2


def test_the_whole_script_of_the_page_writes_the_series(hub, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = (Path(__file__).parents[2] / "docs" / "trackers.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    command = tmp_path / "gradscope"  # as an installed command
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gradscope "$@"\n', encoding="utf-8")
    command.chmod(0o700)
    ran = fork_server.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert "forwarded " in ran.stdout  # the pipe closes when the forwarding ends, too
    (directory,) = (tmp_path / "runs").iterdir()
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == list(range(200))
    assert reader.Scalars("gradscope/grad_norm")
