"""Pauses, one step, breakpoints: the training stands between two steps, as long as a lease lasts."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import CommandRefusedError, UnknownLayerError, UsageError

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


class Trainer:
    """Trains in a thread until it is stopped. `seen` has each step and when it ended."""

    def __init__(self, **attach):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.scope = gradscope.attach(
            self.model, self.optimizer, quiet=True, **{"every": 1, "hub": None} | attach
        )
        self.log = None
        self.step_times_s = {}
        self.end = threading.Event()
        self.gradients = {}
        self.count = 0
        self.failure = None
        self.thread = threading.Thread(target=self.run, name="training")

    def run(self):
        try:
            while not self.end.is_set():
                self.step()
                time.sleep(0.002)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def step(self):
        step = self.scope.step
        self.optimizer.zero_grad()
        self.model(X).square().mean().backward()
        self.gradients[step] = self.model[0].weight.grad.clone()
        if self.log is not None:
            self.scope.log(loss=self.log(step))
        self.optimizer.step()
        self.count += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.scope.detach()
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.failure is None, self.failure


@pytest.fixture
def trainer():
    with Trainer() as trainer:
        yield trainer
        assert trainer.scope.faults == {}


def stands(scope):
    """Whether the training stands: the pause holds a step."""
    return scope._pause.state is not None


def test_a_paused_training_waits_until_it_is_resumed(trainer, wait_until):
    scope = trainer.scope
    scope.pause()
    wait_until(lambda: stands(scope), "the pause")
    held = scope._pause.state
    assert held.step == scope.step
    assert 0 < held.left_s <= 60
    count = len(trainer.gradients)
    time.sleep(0.2)  # what must not happen takes no time to wait for
    assert (scope.step, len(trainer.gradients)) == (held.step, count)
    scope.resume()
    wait_until(lambda: scope.step > held.step + 2, "steps after it")
    assert not scope.is_paused


def test_a_pause_ends_with_its_lease_and_does_not_count_as_step_time(wait_until):
    times = []
    with Trainer() as trainer:
        scope = trainer.scope
        scope._engine.add(times_of(times))
        wait_until(lambda: scope.step > 3, "some steps")
        began_s = time.monotonic()
        scope.pause(lease_s=2.0)
        wait_until(lambda: stands(scope), "the pause")
        step = scope.step
        wait_until(lambda: scope.step > step + 3, "steps after the lease")
        assert time.monotonic() - began_s >= 2.0
    assert max(times) < 1.9


def times_of(times):
    from gradscope.agent.step.plugins import StepPlugin

    class Times(StepPlugin):
        def end(self, step, step_time_s, *, is_observed):
            times.append(step_time_s)

    return Times()


def test_detaching_resumes_a_paused_training(wait_until):
    with Trainer() as trainer:
        trainer.scope.pause(lease_s=300)
        wait_until(lambda: stands(trainer.scope), "the pause")
        trainer.scope.detach()
        count = trainer.count
        wait_until(lambda: trainer.count > count + 2, "training after detach")


@pytest.mark.parametrize("lease_s", [0, -1, 301, float("nan"), "long", True])
def test_a_lease_is_above_zero_and_at_most_five_minutes(lease_s):
    with (
        gradscope.attach(nn.Linear(2, 2), hub=None, quiet=True) as scope,
        pytest.raises(UsageError, match="above 0 and of at most 300 seconds"),
    ):
        scope.pause(lease_s=lease_s)


def test_a_breakpoint_on_a_step_number_pauses_before_that_step(wait_until):
    trainer = Trainer()
    trainer.scope.breakpoint("step == 5")
    with trainer:
        wait_until(lambda: stands(trainer.scope), "the breakpoint")
        state = trainer.scope._pause.state
        assert state.step == 5
        assert state.reason == "break-1, step == 5: step is 5"
        assert max(trainer.gradients) == 4
        trainer.scope.resume()
        wait_until(lambda: trainer.scope.step > 8, "steps after it")
        assert [(b.id, b.hits) for b in trainer.scope.breakpoints] == [("break-1", 1)]


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("loss > 10", "loss is 11"),
        ('grad["0"].norm > 0 and step >= 3', 'grad["0"].norm is'),
        ("any.nan or loss > 10", "loss is 11"),
    ],
)
def test_a_breakpoint_pauses_at_the_boundary_after_its_condition_became_true(
    condition, reason, wait_until
):
    trainer = Trainer()
    trainer.log = lambda step: 11.0 if step == 3 else 1.0
    trainer.scope.breakpoint(condition, lease_s=30)
    with trainer:
        wait_until(lambda: stands(trainer.scope), "the breakpoint")
        assert trainer.scope._pause.state.step == 4
        assert reason in trainer.scope._pause.state.reason


def test_any_nan_pauses_even_if_the_step_was_not_observed(wait_until):
    trainer = Trainer(every=1000)
    trainer.scope.breakpoint("any.nan")
    trainer.log = lambda step: 1.0
    before = trainer.step

    def step():
        if trainer.scope.step == 7:
            with torch.no_grad():
                trainer.model[2].weight[0, 0] = float("nan")
        before()

    trainer.step = step
    with trainer:
        wait_until(lambda: stands(trainer.scope), "the breakpoint")
        assert trainer.scope._pause.state.step == 8


def test_an_invalid_condition_or_unknown_layer_is_rejected():
    with gradscope.attach(nn.Linear(2, 2), hub=None, quiet=True) as scope:
        with pytest.raises(UsageError, match=r"got '\(' at character 11"):
            scope.breakpoint("__import__('os')")
        with pytest.raises(UnknownLayerError):
            scope.breakpoint('grad["nowhere"].norm > 1')
        with pytest.raises(UsageError, match="no breakpoint 'break-9'"):
            scope.remove_breakpoint("break-9")


# Over the link, with a hub of its own.


@pytest.fixture
def watched(hub, wait_until):
    with Trainer(hub="auto", name="watched", record=False) as trainer:
        wait_until(lambda: trainer.scope.endpoint is not None, "the hub")
        yield trainer


@pytest.fixture
def client(watched, wait_until):
    with gradscope.connect() as client:
        wait_until(lambda: any(r.run == "watched" and r.is_live for r in client.runs()), "the run")
        client.run = "watched"
        yield client


def test_a_viewer_pauses_steps_once_and_resumes(watched, client, wait_until):
    held = client.pause().step
    wait_until(lambda: client.paused() is not None, "the state")
    assert client.paused().step == held == watched.scope.step
    assert "script" in client.paused().set_by or client.paused().set_by
    ran = client.step_once()
    assert ran.step == held
    assert client.paused().step == held + 1 == watched.scope.step
    assert client.resume().step == held + 1
    wait_until(lambda: client.paused() is None, "the state")
    wait_until(lambda: watched.scope.step > held + 3, "steps after it")


def test_interventions_set_during_a_pause_are_active_in_the_held_step(watched, client, wait_until):
    held = client.pause().step
    wait_until(lambda: stands(watched.scope), "the pause")
    before = watched.gradients[held - 1]
    ack = client.stop("2")
    assert ack.step == held
    client.step_once()
    assert torch.equal(watched.gradients[held], torch.zeros_like(before))
    client.remove(ack.id)
    client.step_once()
    assert not torch.equal(watched.gradients[held + 1], torch.zeros_like(before))


def test_a_breakpoint_set_by_a_viewer_pauses_and_is_listed(watched, client, wait_until):
    with pytest.raises(CommandRefusedError, match="not a condition: expected"):
        client.breakpoint("loss >")
    name = client.breakpoint("loss > 10")
    assert [(b.id, b.condition) for b in client.breakpoints()] == [(name, "loss > 10")]
    watched.log = lambda _step: 20.0
    wait_until(lambda: client.paused() is not None, "the breakpoint")
    assert name in client.paused().reason
    client.remove_breakpoint(name)
    assert client.breakpoints() == ()
    client.resume()


def test_tensors_that_a_viewer_captures_are_those_of_the_training(watched, client):
    client.pause()
    watched_step = watched.scope.step
    future = threading.Thread(target=client.step_once)
    arrays = []
    asking = threading.Thread(target=lambda: arrays.extend(client.capture("0", "param_grad")))
    asking.start()
    while not watched.scope._captures._captures:
        time.sleep(0.005)
    future.start()
    asking.join(20)
    future.join(20)
    found = {captured.name: captured for captured in arrays}
    assert found.keys() == {"weight", "bias"}
    assert found["weight"].step == watched_step
    assert found["weight"].full_shape == (5, 4)
    assert torch.equal(torch.tensor(found["weight"].array), watched.gradients[watched_step])
    assert found["weight"].channels().mean.shape == (5,)
    with pytest.raises(CommandRefusedError, match="expected what to be one of"):
        client.capture("0", "weights")


def test_a_run_without_control_rejects_a_pause(hub, wait_until):
    with Trainer(hub="auto", name="closed", record=False, control=False) as trainer:
        wait_until(lambda: trainer.scope.endpoint is not None, "the hub")
        with gradscope.connect() as client:
            wait_until(lambda: any(r.run == "closed" for r in client.runs()), "the run")
            client.run = "closed"
            with pytest.raises(CommandRefusedError, match="control=False"):
                client.pause()


VIEWER = """
import sys, time
import gradscope
client = gradscope.connect()
client.run = "watched"
print(client.pause(lease_s=2.0).step, flush=True)
time.sleep(600)
"""


def test_a_viewer_killed_during_a_pause_cannot_hold_the_training(watched, wait_until):
    with subprocess.Popen([sys.executable, "-c", VIEWER], stdout=subprocess.PIPE, text=True) as viewer:
        try:
            held = int(viewer.stdout.readline())
            began_s = time.monotonic()
            wait_until(lambda: stands(watched.scope), "the pause")
        finally:
            os.kill(viewer.pid, signal.SIGKILL)
        viewer.wait()
    assert watched.scope.step == held
    wait_until(lambda: watched.scope.step > held + 3, "the end of the lease")
    assert time.monotonic() - began_s > 1.5


@pytest.mark.timing
def test_an_intervention_expires_on_time_after_the_hub_has_died(
    watched, client, hub_pid, is_alive, wait_until
):
    ack = client.stop("2", end_s=1.5)
    began_s = time.monotonic()
    pid = hub_pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the hub's end")
    assert len(watched.scope.interventions) == 1
    wait_until(lambda: not watched.scope.interventions, "the end of the intervention")
    assert 1.0 < time.monotonic() - began_s < 4.0
    zero = [step for step, g in list(watched.gradients.items()) if not g.any()]
    assert zero[0] == ack.step
    wait_until(lambda: watched.scope.step > zero[-1] + 2, "steps after it")
    assert watched.gradients[zero[-1] + 1].any()


def test_a_command_sent_twice_is_applied_once(watched, client, wait_until):
    from concurrent.futures import Future

    command_of = {}
    ask = client._session.ask
    client._session.ask = lambda command: command_of.setdefault("it", command) and ask(command)
    first = client.scale("0", factor=0.5, is_kept=True)
    again: Future = ask(command_of["it"])
    second = again.result(10)
    assert (second.id, second.step) == (first.id, first.step)
    assert len(watched.scope.interventions) == 1


def test_a_stale_revision_is_rejected(watched, client):
    revision = client._state(5.0).revision
    client.scale("0", factor=0.5, is_kept=True, expect_revision=revision)
    with pytest.raises(CommandRefusedError, match="have changed since"):
        client.scale("0", factor=0.25, is_kept=True, expect_revision=revision)
    assert len(watched.scope.interventions) == 1
