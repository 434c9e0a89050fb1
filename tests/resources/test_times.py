"""Where the time goes: sleeping layers, whose time is known, and clocks whose marks come late."""

import time
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.errors import NotMeasuredError
from gradscope.resources import DeviceClock, HostClock, Stopwatch

pytestmark = pytest.mark.timing

FORWARD_S, BACKWARD_S, MARGIN_S = 0.03, 0.05, 0.02


class Sleeping(Function):
    @staticmethod
    def forward(ctx, x):
        time.sleep(FORWARD_S)
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(BACKWARD_S)
        return gradient


class Sleeper(nn.Module):
    def forward(self, x):
        return Sleeping.apply(x)


def measured(model, batch, work=None, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, hub=None, quiet=True, **options) as scope:
        time.sleep(FORWARD_S)  # as a loader would
        output = work() if work is not None else model(batch)
        output.sum().backward()
        optimizer.step()
        assert scope.faults == {}
        return scope.times()


def test_each_layer_has_the_time_that_it_took():
    model = nn.Sequential(nn.Linear(4, 4), Sleeper(), nn.Sequential(Sleeper(), nn.Tanh()))
    table = measured(model, torch.randn(2, 4))
    for name in ("1", "2.0"):
        assert table[name].forward_s == pytest.approx(FORWARD_S, abs=MARGIN_S)
        assert table[name].backward_s == pytest.approx(BACKWARD_S, abs=MARGIN_S)
        assert table[name].calls == 1
    for name in ("0", "2", "2.1", ""):
        assert table[name].forward_s < FORWARD_S / 2
    assert table["2"].total.forward_s == pytest.approx(FORWARD_S, abs=MARGIN_S)
    assert table[""].total.backward_s == pytest.approx(2 * BACKWARD_S, abs=2 * MARGIN_S)
    assert (table.clock, table.step, table.is_observed) == ("host", 0, True)


def test_the_parts_of_a_step_are_its_whole_and_the_layers_are_forward_and_backward():
    model = nn.Sequential(nn.Linear(64, 64), Sleeper(), nn.Linear(64, 64))
    began_s = time.perf_counter()
    table = measured(model, torch.randn(8, 64))
    whole_s = time.perf_counter() - began_s
    phases = table.phases_s
    assert phases["data"] == pytest.approx(FORWARD_S, abs=MARGIN_S)
    assert phases["forward"] == pytest.approx(table[""].total.forward_s, rel=0.05)
    assert phases["backward"] == pytest.approx(table[""].total.backward_s, rel=0.05)
    assert 2 * FORWARD_S + BACKWARD_S <= sum(phases.values()) <= whole_s


def test_calls_add_up():
    sleeper = Sleeper()
    model = nn.Sequential(nn.Linear(4, 4), sleeper)
    table = measured(
        model, torch.randn(2, 4), lambda: model(torch.randn(2, 4)) + model(torch.ones(2, 4))
    )
    assert table["1"].calls == 2
    assert table["1"].forward_s == pytest.approx(2 * FORWARD_S, abs=MARGIN_S)
    assert table["1"].backward_s == pytest.approx(2 * BACKWARD_S, abs=2 * MARGIN_S)


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_what_a_checkpoint_computes_again_is_backward_of_its_layers(is_reentrant):
    class Checkpointing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(Sleeper(), nn.Tanh())
            self.first = nn.Linear(4, 4)

        def forward(self, x):
            return checkpoint(self.inner, self.first(x), use_reentrant=is_reentrant)

    table = measured(Checkpointing(), torch.randn(2, 4))
    row = table["inner.0"]
    assert row.calls == 1
    assert row.forward_s == pytest.approx(FORWARD_S, abs=MARGIN_S)
    assert row.backward_s == pytest.approx(FORWARD_S + BACKWARD_S, abs=2 * MARGIN_S)


def test_values_that_were_not_measured_are_not_invented():
    model = nn.Linear(2, 2)
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        with pytest.raises(NotMeasuredError, match="no time has been measured yet"):
            scope.times()
        with pytest.raises(NotMeasuredError, match=r"scope.measure_now\(\)"):
            scope.memory()
        with torch.no_grad():
            model(torch.randn(2, 2))
        scope.mark_step()
        table = scope.times()
        assert table[""].backward_s is None
        assert table.notes == ("no backward pass was observed in this step",)


def test_a_step_can_be_asked_for():
    model = nn.Linear(2, 2)
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        for _ in range(5):
            model(torch.randn(2, 2)).sum().backward()
            scope.mark_step()
        before = scope.memory().step
        scope.measure_now()
        for _ in range(2):
            model(torch.randn(2, 2)).sum().backward()
            scope.mark_step()
        assert before < 5 <= scope.memory().step == scope.times().step


def test_exactly_every_third_step_is_measured_and_says_that_it_was_observed():
    model = nn.Linear(2, 2)
    with gradscope.attach(model, hub=None, quiet=True, every=1, resources_every=3) as scope:
        seen = []
        for _ in range(8):
            model(torch.randn(2, 2)).sum().backward()
            scope.mark_step()
            seen.append((scope.memory().step, scope.times().step, scope.times().is_observed))
    assert seen == [(step // 3 * 3, step // 3 * 3, True) for step in range(8)]


@dataclass
class Device:
    """A device that is behind: it takes the time that it is given, and marks arrive when the test says so."""

    now_ms: float = 0.0
    has_reached_ms: float = 0.0
    events: list["Event"] = field(default_factory=list)

    def make_event(self) -> "Event":
        return Event(self)


@dataclass
class Event:
    device: Device
    at_ms: float = -1.0

    def record(self) -> None:
        self.at_ms = self.device.now_ms
        self.device.events.append(self)

    def query(self) -> bool:
        return self.device.has_reached_ms >= self.at_ms

    def elapsed_time(self, end: "Event", /) -> float:
        assert end.query(), "a mark was read before it had come"
        return end.at_ms - self.at_ms


def test_a_devices_marks_are_read_only_when_they_have_come():
    device = Device()
    watch = Stopwatch(DeviceClock(device.make_event))
    device.now_ms = 2.0
    watch.begin_phase("forward")
    watch.enter(0, is_backward=False)
    device.now_ms = 3.0
    watch.enter(1, is_backward=False)
    device.now_ms = 7.0
    watch.leave(1)
    device.now_ms = 8.0
    watch.leave(0)
    watch.begin_phase("loss")
    device.now_ms = 9.0
    watch.begin_backward(1)
    device.now_ms = 15.0
    watch.end_backward(1)
    device.now_ms = 16.0
    watch.begin_phase("optimizer")
    device.now_ms = 20.0
    watch.stop()
    assert not watch.is_ready()
    device.has_reached_ms = 20.0
    assert watch.is_ready()
    times = watch.times()
    assert times.forward_s == pytest.approx({0: 0.002, 1: 0.004})
    assert times.backward_s == pytest.approx({1: 0.006})
    assert times.phases_s == pytest.approx(
        {
            "data": 0.002,
            "forward": 0.006,
            "loss": 0.001,
            "backward": 0.006,
            "other": 0.001,
            "optimizer": 0.004,
        }
    )


def test_the_time_of_gradscope_is_not_attributed_to_layers():
    clock = HostClock()
    begin = clock.mark()
    clock.pause()
    time.sleep(0.02)
    end = clock.mark()
    clock.resume()
    assert clock.seconds(begin, end) < 0.01
    assert clock.seconds(begin, clock.mark()) < 0.01
    assert clock.excluded_s >= 0.02


def test_a_span_that_never_ends_is_dropped():
    watch = Stopwatch(HostClock())
    watch.enter(0, is_backward=False)
    watch.enter(1, is_backward=False)
    watch.leave(0)
    watch.leave(7)
    watch.stop()
    assert set(watch.times().forward_s) == {0}
