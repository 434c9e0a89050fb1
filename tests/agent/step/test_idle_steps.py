"""Steps at rest: each is counted once, and what is asked for amid them takes effect as in any other."""

import itertools
import math
import threading

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.step.plugins import StepPlugin
from gradscope.agent.step.step_counter import StepCounter
from gradscope.agent.step.wakeups import Roll
from gradscope.errors import AlertError
from gradscope.observe import native_module

WARM = 120
"""After so many steps the pace is known and nearly all steps are at rest."""

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


class Training:
    """A training that can be stopped between forward and backward; every 10,000th step is observed."""

    def __init__(self, **attach):
        self.model = make_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        options = {"every": 10_000, "hub": None, "quiet": True} | attach
        self.scope = gradscope.attach(self.model, self.optimizer, **options)
        self.rest = self.scope._engine._rest
        self.tally = self.scope._engine._tally

    def step(self, amid=lambda: None):
        self.optimizer.zero_grad()
        loss = self.model(X).square().mean()
        amid()
        loss.backward()
        self.optimizer.step()
        return self.model[0].weight.grad.clone()

    def come_to_rest(self):
        """Train until the step in progress is at rest, and the one after it."""
        for _ in range(WARM):
            self.step()
        for _ in range(40):
            if self.tally.is_at_rest() and self.tally.left > 1:
                return
            self.step()
        raise AssertionError("no step came to rest")


@pytest.fixture(params=["native", "python"])
def training(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setenv("GRADSCOPE_NATIVE", "0")
    elif native_module() is None:
        pytest.skip("the native pass was not built")
    training = Training()
    assert isinstance(training.tally, StepCounter) == (request.param == "python")
    yield training
    assert training.scope.faults == {}
    training.scope.detach()


def test_every_step_is_reported_once_in_order_with_times_that_add_up(training):
    told, batches = [], []
    training.rest._on_end = training.scope._engine._on_end = lambda *step: told.append(step)
    tell = training.rest._tell
    training.rest._tell = lambda: batches.append((tell(), len(told))[1])
    for _ in range(WARM + 300):
        training.step()
    training.scope.detach()
    steps, ended_s, times_s = zip(*told, strict=True)
    assert steps == tuple(range(WARM + 300))
    assert max(b - a for a, b in itertools.pairwise(batches)) > 8  # they are not told of one by one
    spans = [b - a for a, b in itertools.pairwise(ended_s[WARM:])]
    assert min(spans) > 0
    assert sum(times_s[WARM + 1 :]) == pytest.approx(sum(spans), rel=0.05)


def test_the_step_in_progress_is_numbered_one_by_one(training):
    for step in range(WARM + 50):
        assert training.scope.step == step
        training.step()


@pytest.mark.parametrize("needs_observed", [False, True])
def test_an_idle_plugin_is_called_at_most_in_observed_steps_and_an_active_one_in_all(needs_observed):
    training = Training(every=50)
    calls = []

    class Part(StepPlugin):
        def end(self, step, step_time_s, *, is_observed):
            calls.append((step, is_observed))
            self.rest()

    part = Part()
    part.needs_observed = needs_observed
    training.scope._engine.add(part)
    for _ in range(230):
        training.step()
    assert calls == [(step, True) for step in range(0, 230, 50) if needs_observed or step == 0]
    calls.clear()
    part.wake()
    training.step()
    assert calls == [(230, False)]
    part.rest(240)
    for _ in range(15):
        training.step()
    assert calls == [(230, False), (240, False)]
    training.scope.detach()


def test_a_plugin_with_a_next_step_is_called_in_that_step():
    roll = Roll(StepCounter(0, lambda: 0.0, lambda: 0, print, print))
    roll.awake.add("a")
    roll.rest("a", 7)
    roll.rest("b", 9)
    roll.rest("c", math.inf)
    assert (roll.awake, roll.wakes_at) == (set(), 7)
    roll.wake_due(6)
    assert roll.awake == set()
    roll.wake_due(8)
    assert (roll.awake, roll.wakes_at) == ({"a"}, 9)
    roll.wake_due(9)
    assert (roll.awake, roll.wakes_at) == ({"a", "b"}, math.inf)


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["own thread", "another thread"])
def test_an_intervention_requested_during_an_idle_step_acts_from_the_next_step(training, is_elsewhere):
    training.come_to_rest()
    handles = []

    def ask():
        act = lambda: handles.append(training.scope.reverse("0"))  # noqa: E731 - run here or there
        if not is_elsewhere:
            act()
            return
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    step, weight = training.scope.step, training.model[0].weight.detach().clone()
    plain = training.step(ask)
    twin = make_model()
    twin.load_state_dict({k: v.clone() for k, v in training.model.state_dict().items()})
    with torch.no_grad():  # SGD's own step, so `plain` was the gradient without the reversal
        assert torch.equal(weight - 0.01 * plain, training.model[0].weight)
    reversed_ = training.step()
    twin(X).square().mean().backward()
    assert torch.equal(reversed_, -twin[0].weight.grad)
    assert handles[0].active_since == step + 1
    handles[0].remove()


def test_an_intervention_requested_between_two_idle_steps_acts_in_the_next(training):
    training.come_to_rest()
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    step = training.scope.step
    handle = training.scope.scale("0", factor=2.0)
    scaled = training.step()
    assert handle.active_since == step
    twin = make_model()
    twin.load_state_dict(before)
    twin(X).square().mean().backward()
    assert torch.equal(scaled, 2.0 * twin[0].weight.grad)


def where_it_stands(training, wait_until, train):
    """Let it train; return the steps before which it stood, and was let go."""
    stood_at = []

    def watch():
        wait_until(lambda: training.scope._gate.state is not None, "the pause")
        stood_at.append(training.scope._gate.state.step)
        training.scope.resume()

    viewer = threading.Thread(target=watch)
    viewer.start()
    train()
    viewer.join()
    return stood_at


def test_a_pause_during_idle_steps_takes_effect_before_the_next_step(training, wait_until):
    training.come_to_rest()
    step = training.scope.step
    pauses = lambda: training.step(training.scope.pause)  # noqa: E731 - one step with a pause in it
    assert where_it_stands(training, wait_until, pauses) == [step + 1]


def test_a_breakpoint_set_during_idle_steps_pauses_before_its_step(training, wait_until):
    training.come_to_rest()
    target = training.scope.step + 3
    training.scope.breakpoint(f"step == {target}")
    five_steps = lambda: [training.step() for _ in range(5)]  # noqa: E731 - as above
    assert where_it_stands(training, wait_until, five_steps) == [target]


def test_a_capture_set_during_idle_steps_begins_with_the_next_step(training):
    training.come_to_rest()
    step, captures = training.scope.step, []
    training.step(lambda: captures.append(training.scope.capture("0", keep=5)))
    training.step()
    training.step()
    assert [each.step for each in captures[0].tensors()] == [step + 1, step + 2]
    captures[0].remove()
    training.come_to_rest()  # and they are at rest again


def test_the_snapshot_is_taken_before_the_first_intervention_during_idle_steps(training):
    training.scope.keep_snapshot()
    training.come_to_rest()
    step = training.scope.step
    training.step(lambda: training.scope.reverse("0"))
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    assert training.scope._way_back.step == step + 1
    training.step()
    training.scope.undo_to_before()
    for name, tensor in training.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert training.scope.interventions == ()


def test_scalars_logged_in_an_idle_step_are_judged_at_its_end(training):
    training.come_to_rest()
    seen = []
    training.scope._see_scalars = lambda step, values: seen.append((step, values))
    step = training.scope.step
    training.step(lambda: training.scope.log(loss=3.5))
    assert [(at, values["loss"]) for at, values in seen if "loss" in values] == [(step, 3.5)]


@pytest.mark.parametrize("action", ["skip_step", "raise"])
def test_a_rule_set_during_idle_steps_acts_in_the_step_in_progress(training, action):
    training.come_to_rest()

    def spoil():
        training.scope.rule("nonfinite", action=action)
        training.model[2].bias.register_hook(lambda gradient: gradient * math.nan)

    before = training.model[0].weight.detach().clone()
    if action == "raise":
        with pytest.raises(AlertError):
            training.step(spoil)
    else:
        training.step(spoil)
    assert torch.equal(training.model[0].weight, before)
    assert bool(torch.isfinite(training.model[2].bias).all())


def test_gradients_of_two_optimizers_are_checked():
    models = [make_model(), make_model()]
    both = nn.ModuleList(models)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.0) for model in models]
    with gradscope.attach(both, budget=1e-6, hub=None, quiet=True) as scope:
        for step in range(400):
            for i, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                optimizer.zero_grad()
                model(X).square().mean().backward()
                if step >= 300 and i == 1:
                    model[0].weight.grad[0, 0] = math.nan
                optimizer.step()
        alert = scope.alerts[0]
        assert alert.rule == "nonfinite"
        assert 300 <= alert.step < 300 + 32
        assert "1.0.weight" in alert.text
        assert "gradients are looked at every" in alert.text  # most steps were passed over
        assert scope.faults == {}


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_training_with_idle_steps_is_bitwise_the_same(make):
    def losses(watch):
        model = make_model()
        optimizer = make(model.parameters(), lr=0.05)
        scope = gradscope.attach(model, optimizer, hub=None, quiet=True) if watch else None
        out = []
        for _ in range(300):
            optimizer.zero_grad()
            loss = model(X).square().mean()
            loss.backward()
            optimizer.step()
            out.append(loss.item())
        if scope is not None:
            assert scope.faults == {}
            assert scope.step == 300
            scope.detach()
        return out, [p.detach().clone() for p in model.parameters()]

    bare, watched = losses(False), losses(True)
    assert bare[0] == watched[0]
    assert all(itertools.starmap(torch.equal, zip(bare[1], watched[1], strict=True)))
