"""Idle steps: each is counted once, and a request takes effect as in any other step."""

import itertools
import math
import threading

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.run.step_counter import StepCounter
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import AlertError
from gradscope.observe import native_module
from support.models import make_model

pytestmark = pytest.mark.slow

WARM = 120
"""After this many steps the step time is known, and nearly all steps are idle."""

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


class Training:
    """A training that can run a function between forward and backward. Every 10,000th step is observed."""

    def __init__(self, **attach):
        self.model = make_model(6)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        options = {"every": 10_000, "hub": None, "quiet": True} | attach
        self.scope = gradscope.attach(self.model, self.optimizer, **options)
        self.counter = self.scope._run.counter

    def step(self, inside=lambda: None):
        self.optimizer.zero_grad()
        loss = self.model(X).square().mean()
        inside()
        loss.backward()
        self.optimizer.step()
        return self.model[0].weight.grad.clone()

    def reach_idle_steps(self):
        """Train until the step in progress and the next one are idle."""
        for _ in range(WARM):
            self.step()
        for _ in range(40):
            if self.counter.is_idle() and self.counter.left > 1:
                return
            self.step()
        raise AssertionError("no step was idle")


@pytest.fixture(params=["native", "python"])
def training(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setenv("GRADSCOPE_NATIVE", "0")
    elif native_module() is None:
        pytest.skip("the native pass was not built")
    training = Training()
    assert isinstance(training.counter, StepCounter) == (request.param == "python")
    yield training
    assert training.scope.faults == {}
    training.scope.detach()


def test_every_step_is_reported_once_and_in_order_with_times_that_add_up(training):
    reported, batches = [], []

    class Recorder(StepPlugin):
        def next_active_step(self, step):
            return None

        def ended(self, *step):
            reported.append(step)

    training.scope._engine.add(Recorder())
    for _ in range(WARM + 300):
        training.step()
        batches.append(len(reported))
    training.scope.detach()
    steps, ended_s, times_s = zip(*reported, strict=True)
    assert steps == tuple(range(WARM + 300))
    assert max(b - a for a, b in itertools.pairwise(batches)) > 8  # they are reported in batches
    spans = [b - a for a, b in itertools.pairwise(ended_s[WARM:])]
    assert min(spans) > 0
    assert sum(times_s[WARM + 1 :]) == pytest.approx(sum(spans), rel=0.05)


def test_the_step_in_progress_is_numbered_one_by_one(training):
    for step in range(WARM + 50):
        assert training.scope.step == step
        training.step()


@pytest.mark.parametrize("needs_observed", [False, True])
def test_a_plugin_is_called_in_the_steps_that_it_names_and_in_observed_steps_if_it_needs_them(
    needs_observed,
):
    training = Training(every=50)
    calls = []

    class Plugin(StepPlugin):
        wanted = None

        def next_active_step(self, step):
            return None if self.wanted is None else max(step, self.wanted)

        def end(self, step, step_time_s, *, is_observed):
            calls.append((step, is_observed))
            self.wanted = None

    plugin = Plugin()
    plugin.needs_observed = needs_observed
    training.scope._engine.add(plugin)
    for _ in range(230):
        training.step()
    assert calls == [(step, True) for step in range(0, 230, 50) if needs_observed]
    calls.clear()
    plugin.wanted = 0
    training.scope._run.plan_again()
    training.step()
    assert calls == [(230, False)]
    plugin.wanted = 240
    training.scope._run.plan_again()
    for _ in range(15):
        training.step()
    assert calls == [(230, False), (240, False)]
    training.scope.detach()


def test_a_plan_is_made_again_only_when_a_step_is_not_idle_or_work_was_requested(training):
    training.reach_idle_steps()
    asked = []

    class Plugin(StepPlugin):
        def next_active_step(self, step):
            asked.append(step)

        def end(self, step, step_time_s, *, is_observed):
            raise AssertionError("called in a step that it has not named")

    training.scope._engine.add(Plugin())
    for _ in range(200):
        training.step()
    assert len(asked) < 30  # memory and times are measured now and then
    asked.clear()
    training.scope._run.plan_again()
    training.step()
    assert asked


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["own thread", "another thread"])
def test_an_intervention_that_is_requested_in_an_idle_step_acts_from_the_next_step(
    training, is_elsewhere
):
    training.reach_idle_steps()
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
    twin = make_model(6)
    twin.load_state_dict({k: v.clone() for k, v in training.model.state_dict().items()})
    with torch.no_grad():  # SGD's own step, so `plain` was the gradient without the reversal
        assert torch.equal(weight - 0.01 * plain, training.model[0].weight)
    reversed_ = training.step()
    twin(X).square().mean().backward()
    assert torch.equal(reversed_, -twin[0].weight.grad)
    assert handles[0].active_since == step + 1
    handles[0].remove()


def test_an_intervention_that_is_requested_between_two_idle_steps_acts_in_the_next(training):
    training.reach_idle_steps()
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    step = training.scope.step
    handle = training.scope.scale("0", factor=2.0)
    scaled = training.step()
    assert handle.active_since == step
    twin = make_model(6)
    twin.load_state_dict(before)
    twin(X).square().mean().backward()
    assert torch.equal(scaled, 2.0 * twin[0].weight.grad)


def paused_at(training, wait_until, train):
    """Train; return the steps before which it was paused. Each pause is resumed."""
    steps = []

    def watch():
        wait_until(lambda: training.scope._pause.state is not None, "the pause")
        steps.append(training.scope._pause.state.step)
        training.scope.resume()

    viewer = threading.Thread(target=watch)
    viewer.start()
    train()
    viewer.join()
    return steps


def test_a_pause_in_an_idle_step_begins_before_the_next_step(training, wait_until):
    training.reach_idle_steps()
    step = training.scope.step
    pauses = lambda: training.step(training.scope.pause)  # noqa: E731 - one step with a pause in it
    assert paused_at(training, wait_until, pauses) == [step + 1]


def test_a_breakpoint_that_is_set_in_an_idle_step_pauses_before_its_step(training, wait_until):
    training.reach_idle_steps()
    target = training.scope.step + 3
    training.scope.breakpoint(f"step == {target}")
    five_steps = lambda: [training.step() for _ in range(5)]  # noqa: E731 - as above
    assert paused_at(training, wait_until, five_steps) == [target]


def test_a_capture_that_is_requested_in_an_idle_step_begins_with_the_next(training):
    training.reach_idle_steps()
    step, captures = training.scope.step, []
    training.step(lambda: captures.append(training.scope.capture("0", keep=5)))
    training.step()
    training.step()
    assert [each.step for each in captures[0].tensors()] == [step + 1, step + 2]
    captures[0].remove()
    training.reach_idle_steps()  # steps are idle again


def test_the_snapshot_is_taken_before_the_first_intervention_in_idle_steps(training):
    training.scope.keep_snapshot()
    training.reach_idle_steps()
    step = training.scope.step
    training.step(lambda: training.scope.reverse("0"))
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    assert training.scope._snapshot.step == step + 1
    training.step()
    training.scope.restore_snapshot()
    for name, tensor in training.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert training.scope.interventions == ()


def test_scalars_that_are_logged_in_an_idle_step_are_judged_when_it_ends(training):
    training.reach_idle_steps()
    seen = []
    training.scope._rules.on_scalars = lambda step, values, batches: seen.append((step, values))
    step = training.scope.step
    training.step(lambda: training.scope.log(loss=3.5))
    assert [(at, values["loss"]) for at, values in seen if "loss" in values] == [(step, 3.5)]


@pytest.mark.parametrize("action", ["skip_step", "raise"])
def test_a_rule_that_is_set_in_an_idle_step_acts_in_that_step(training, action):
    training.reach_idle_steps()

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


class Calls(StepPlugin):
    """Collects the optimizers whose step the engine handled in Python."""

    def __init__(self):
        self.optimizers = []

    def next_active_step(self, step):
        return None

    def check_gradients(self, step, optimizer):
        self.optimizers.append(optimizer)


@pytest.mark.skipif(native_module() is None, reason="the native pass was not built")
def test_neither_of_two_optimizers_calls_the_engine_in_an_idle_step():
    model, calls = make_model(6), Calls()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.01) for i in (0, 2)]

    def train(steps):
        for _ in range(steps):
            model(X).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()

    with gradscope.attach(model, every=10_000, hub=None, quiet=True) as scope:
        train(WARM)
        scope._engine.add(calls)
        train(256)  # in at least one of 64 steps the batch of idle steps is reported
        assert scope.step == WARM + 256
    assert len(calls.optimizers) < 2 * 256 / 8
    assert set(calls.optimizers) <= set(optimizers)


def test_gradients_of_both_optimizers_are_checked():
    models = [make_model(6), make_model(6)]
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
        alert = next(each for each in scope.alerts if each.rule == "nonfinite")
        assert 600 <= alert.step < 600 + 64  # each optimizer steps after a forward: two steps
        assert "1.0.weight" in alert.text
        assert "gradients are checked every" in alert.text  # most steps were not checked
        assert scope.faults == {}


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_a_training_with_idle_steps_is_bitwise_the_bare_one(make):
    def losses(watch):
        model = make_model(6)
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
