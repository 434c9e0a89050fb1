"""The whole way with real processes: a training script, the hub it starts, clients that come and go."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import gradscope
from gradscope.errors import CommandRefusedError, NothingToConnectError
from gradscope.protocol import unpack_layers
from gradscope.protocol.bodies import unpack_block
from support import fork_server
from support.waiting import wait_for

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]

SCRIPT = Path(__file__).with_name("training.py")
DEADLINE_S = 200


@contextmanager
def training(result, steps, *options):
    """A training process, ended with the block."""
    process = fork_server.Popen(
        [sys.executable, str(SCRIPT), str(result), str(steps), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def connect(run="training", **options):
    def attempt():
        try:
            return gradscope.connect(run, **options)
        except NothingToConnectError:
            return None

    return wait_for(attempt, f"run {run}")


def finish(process, result):
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    return arrays_of(result), errors


def arrays_of(path):
    with np.load(path) as archive:
        return dict(archive)


def wait_for_step(client, step):
    for table in client.steps(timeout_s=DEADLINE_S):
        if table.step >= step:
            return


@pytest.fixture
def bare(tmp_path):
    """The same training without gradscope."""

    def run(steps):
        result = tmp_path / "bare.npz"
        fork_server.run(
            [sys.executable, str(SCRIPT), str(result), str(steps), "--bare", "--sleep-s", "0"],
            check=True,
        )
        return arrays_of(result)

    return run


def test_a_client_reverses_then_clips_and_each_gradient_is_exact_from_the_acknowledged_step(
    places, tmp_path, bare
):
    over_file = tmp_path / "over"
    with training(tmp_path / "run.npz", 20_000, "--until", str(over_file)) as process:
        with connect() as client:
            client.latest()
            reverse = client.reverse("2", is_kept=True)
            assert (reverse.is_done, reverse.layers) == (True, ("2",))
            assert [entry.id for entry in client.interventions()] == [reverse.id]
            wait_for_step(client, reverse.step + 5)
            back = client.remove(reverse.id)
            wait_for_step(client, back.step + 5)
            clip = client.clip("2", max_norm=1e-3, is_kept=True)
            wait_for_step(client, clip.step + 5)
            over = client.remove_all()
            wait_for_step(client, over.step + 5)
            assert client.interventions() == ()
        over_file.touch()
        kept, _ = finish(process, tmp_path / "run.npz")

    steps = len(kept["loss"])
    without = bare(steps)
    for key in ("loss", "up", "down"):
        assert np.array_equal(kept[key][: reverse.step], without[key][: reverse.step])
    is_changed = np.zeros(steps, bool)
    is_changed[reverse.step : back.step] = is_changed[clip.step : over.step] = True
    assert np.array_equal(kept["up"][~is_changed], kept["control_up"][~is_changed])
    assert np.array_equal(kept["down"], kept["control_down"])
    reversed_steps = slice(reverse.step, back.step)
    assert np.array_equal(kept["up"][reversed_steps], -kept["control_up"][reversed_steps])
    for step in range(clip.step, over.step):
        arriving = kept["control_out"][step].astype(np.float64)
        norm = np.linalg.norm(arriving)
        assert norm > 1e-3
        expected = (arriving * 1e-3 / norm).sum(0)
        np.testing.assert_allclose(kept["own"][step], expected, rtol=1e-5, atol=1e-9)
        expected = kept["control_up"][step] * (1e-3 / norm)
        np.testing.assert_allclose(
            kept["up"][step], expected, rtol=1e-4, atol=1e-5 * abs(expected).max()
        )


def test_a_late_viewer_receives_the_manifest_and_past_steps(places, tmp_path):
    # At this pace the hub keeps every step of the first minute, so the first one is step 0.
    with training(tmp_path / "run.npz", 20_000, "--sleep-s", "0.1") as process:
        with connect(name="first") as first:
            wait_for_step(first, 10)
        with connect(name="late") as late:
            manifest = late.manifest()
            assert [layer.name for layer in unpack_layers(manifest)] == ["", "0", "1", "2", "3", "4"]
            seen = []
            for table in late.steps(timeout_s=DEADLINE_S):
                seen.append(table.step)
                if table.step >= 10:
                    break
        assert seen[0] == 0
        assert seen == sorted(set(seen))
        process.kill()


def test_killing_a_viewer_does_not_change_training(places, tmp_path, bare):
    watch = (
        "import gradscope, sys\n"
        "with gradscope.connect('training') as client:\n"
        "    for table in client.steps(): print(table.step, flush=True)\n"
    )
    over_file = tmp_path / "over"
    with training(tmp_path / "run.npz", 20_000, "--until", str(over_file)) as process:
        connect().close()
        with fork_server.Popen([sys.executable, "-c", watch], stdout=subprocess.PIPE) as viewer:
            assert viewer.stdout.readline()
            viewer.kill()
        over_file.touch()
        kept, errors = finish(process, tmp_path / "run.npz")
    without = bare(len(kept["loss"]))
    assert all(np.array_equal(kept[key], without[key]) for key in without)
    assert "Traceback" not in errors


def test_without_a_possible_hub_training_runs_and_one_warning_says_why(
    places, tmp_path, bare, monkeypatch
):
    blocked = places / "blocked"
    blocked.write_text("a file where the runtime directory should be")
    monkeypatch.setenv("GRADSCOPE_RUNTIME_DIR", str(blocked))
    with training(tmp_path / "run.npz", 150) as process:
        kept, errors = finish(process, tmp_path / "run.npz")
    without = bare(150)
    assert all(np.array_equal(kept[key], without[key]) for key in without)
    assert errors.count("no live view of this run") == 1
    assert str(blocked) in errors
    assert "Traceback" not in errors


def test_training_continues_when_the_hub_is_killed_and_the_view_recovers(places, hub_pid, tmp_path):
    with training(tmp_path / "run.npz", 20_000) as process:
        with connect() as client:
            before = client.latest().step
            os.kill(hub_pid(), signal.SIGKILL)
            seen = []
            for table in client.steps(timeout_s=DEADLINE_S):
                seen.append(table.step)
                if len(seen) > 20 and table.step > before + 50:
                    break
            assert len(seen) == len(set(seen))
            assert client.scale("2", factor=2.0, is_kept=True).is_done
        assert process.poll() is None


def test_a_killed_run_can_still_be_watched(places, tmp_path):
    from gradscope.recording import list_recordings, open_recording

    with training(tmp_path / "run.npz", 20_000) as process:
        with connect() as client:
            wait_for_step(client, 30)
        process.kill()
        process.wait()
        (info,) = wait_for(
            lambda: [i for i in list_recordings() if i.ended_s is not None],
            "the recording to be closed",
        )
    assert (info.run, info.first_step) == ("training", 0)
    assert info.last_step >= 30
    with open_recording(info.path) as recording:
        steps = list(recording.steps())
        assert unpack_block(steps[-1]).derive("norm")[0] > 0
        assert recording.manifest().model == "Sequential"


def test_invalid_commands_are_rejected_and_training_continues(places, tmp_path, bare):
    over_file = tmp_path / "over"
    with training(tmp_path / "run.npz", 20_000, "--until", str(over_file)) as process:
        with connect() as client:
            for call, words in [
                (lambda: client.clip("fc9", max_norm=1.0, is_kept=True), "no layer matches 'fc9'"),
                (lambda: client.scale("2", factor=float("nan"), is_kept=True), "finite number"),
                (lambda: client.clip("2", max_norm=-1.0, is_kept=True), "at least 0"),
                (lambda: client.remove("reverse-9"), "no intervention 'reverse-9'"),
            ]:
                with pytest.raises((CommandRefusedError, ValueError), match=words):
                    call()
        over_file.touch()
        kept, _ = finish(process, tmp_path / "run.npz")
    without = bare(len(kept["loss"]))
    assert all(np.array_equal(kept[key], value) for key, value in without.items())


def test_an_observing_viewer_cannot_change_anything(places, tmp_path):
    with (
        training(tmp_path / "run.npz", 20_000),
        connect(want="observe") as client,
        pytest.raises(CommandRefusedError, match="observe"),
    ):
        client.reverse("2", is_kept=True)


def test_a_run_that_does_not_exist_is_answered_with_those_there_are(places, tmp_path):
    with training(tmp_path / "run.npz", 20_000):
        connect().close()
        with pytest.raises(NothingToConnectError, match="training"):
            gradscope.connect("traning")


WITH_WORKERS = """
import torch, gradscope
from torch import nn

model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scope = gradscope.attach(model, name="workers", every=1)
loader = torch.utils.data.DataLoader(torch.randn(64, 4), batch_size=4, num_workers=2)
for epoch in range(2):
    for batch in loader:
        optimizer.zero_grad()
        model(batch).sum().backward()
        optimizer.step()
print(scope.step, scope.faults)
"""


def test_forked_data_loader_workers_use_no_socket_and_end(places):
    done = fork_server.run(
        [sys.executable, "-c", WITH_WORKERS],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.split() == ["32", "{}"]
    assert "Traceback" not in done.stderr


NOTEBOOK = """
import torch, gradscope
from torch import nn

for attempt in range(3):
    model = nn.Linear(4, 2)
    gradscope.attach(model, hub=None, quiet=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
print(len(gradscope.scopes()))
"""


def test_running_a_notebook_cell_again_leaves_one_scope():
    done = fork_server.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
