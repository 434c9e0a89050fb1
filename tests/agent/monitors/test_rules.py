"""Rules at work in a training: what they tell, and what they have done."""

import contextlib
import dataclasses

import pytest
import torch

import gradscope
from gradscope.errors import AlertError, UnknownLayerError, UsageError
from gradscope.rules import RULES, Rule, rule_kind
from support.models import make_deep_model

pytestmark = pytest.mark.slow

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


def train(model, optimizer, steps, loss_scale=lambda step: 1.0, scope=None, log=None):
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(X).square().mean() * loss_scale(step)
        loss.backward()
        if scope is not None and log is not None:
            scope.log(loss=log(step))
        optimizer.step()


@pytest.fixture
def model():
    return make_deep_model()


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=1e-3)


@pytest.fixture
def detaching():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def scope(model, optimizer):
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        yield scope
        assert scope.faults == {}


def test_a_spike_is_reported_once_with_layer_value_and_level(model, optimizer, scope):
    train(model, optimizer, 30)
    seen = []
    scope.on_alert(seen.append)
    train(model, optimizer, 5, lambda step: 500.0 if step == 2 else 1.0)
    spikes = [alert for alert in seen if alert.rule == "spike"]
    assert {alert.step for alert in spikes} == {32}
    assert {alert.finding.layer for alert in spikes} == {"0", "2", "4"}
    assert scope.alerts[-len(seen) :] == tuple(seen)
    by_layer = {alert.finding.layer: alert.finding for alert in spikes}
    assert "times its recent level" in by_layer["4"].words


def test_exploding_with_clip_scales_the_layers_gradient_to_the_threshold_before_the_step(
    model, optimizer, scope
):
    scope.rule("exploding", action="clip", threshold=1e-3, patience=1, layers="4")
    before = model[4].weight.detach().clone(), model[4].bias.detach().clone()
    train(model, optimizer, 1, lambda _step: 100.0)
    moved = torch.cat([(w - p).flatten() for w, p in zip(before, model[4].parameters(), strict=True)])
    # SGD moves by lr times the gradient, whose norm was clipped; float32 rounds the weights.
    assert float(moved.detach().norm() / 1e-3) == pytest.approx(1e-3, rel=0.1)
    assert float(torch.cat([p.grad.flatten() for p in model[4].parameters()]).norm()) == (
        pytest.approx(1e-3, rel=1e-5)
    )
    assert [alert.rule for alert in scope.alerts] == ["exploding"]


def test_a_skipped_step_leaves_parameters_momentum_and_gradients_as_they_were(model, detaching):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    scope = detaching.enter_context(gradscope.attach(model, optimizer, every=1, hub=None, quiet=True))
    train(model, optimizer, 2)
    scope.rule("exploding", action="skip_step", threshold=10.0, patience=1)
    kept = [p.detach().clone() for p in model.parameters()]
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    train(model, optimizer, 1, lambda _step: 1e6)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept, strict=True))
    assert all(
        torch.equal(optimizer.state[p]["momentum_buffer"], m)
        for p, m in zip(model.parameters(), momenta, strict=True)
    )
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.parameters())
    train(model, optimizer, 1)
    assert not torch.equal(next(model.parameters()), kept[0])


def test_a_skipped_step_is_skipped_for_each_of_two_optimizers(model, detaching):
    parameters = list(model.parameters())
    first, second = torch.optim.SGD(parameters[:2], lr=0.1), torch.optim.Adam(parameters[2:])
    scope = detaching.enter_context(gradscope.attach(model, every=1, hub=None, quiet=True))
    scope.rule("exploding", action="skip_step", threshold=10.0, patience=1)
    kept = [p.detach().clone() for p in parameters]
    (model(X).square().mean() * 1e6).backward()
    first.step()
    second.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, kept, strict=True))
    assert not second.state


def test_raise_leaves_the_optimizer_step_with_parameters_unchanged(model, optimizer, scope):
    scope.rule("exploding", action="raise", threshold=1.0, patience=1)
    train(model, optimizer, 1)
    kept = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(AlertError, match=r"exploding in step 1: .*gradient norm .*, over 1"):
        train(model, optimizer, 1, lambda _step: 1e6)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept, strict=True))
    train(model, optimizer, 1)  # who catches it can go on


def test_raise_of_a_rule_on_updates_comes_after_the_step(model, optimizer, scope):
    scope.rule("update_ratio", action="raise", threshold=(1e-9, 1e-8), patience=1)
    with pytest.raises(AlertError, match="update_ratio in step 0"):
        train(model, optimizer, 1)
    assert scope.step == 1


def test_remove_removes_all_interventions(model, optimizer, scope):
    scope.scale("2", factor=0.5)
    scope.rule("exploding", action="remove", threshold=10.0, patience=1)
    train(model, optimizer, 1)
    assert len(scope.interventions) == 1
    train(model, optimizer, 2, lambda _step: 1e6)
    assert scope.interventions == ()


def test_a_callback_is_called_and_its_failure_is_counted_and_does_not_stop_training(model, optimizer):
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        seen = []

        def failing(alert):
            seen.append(alert)
            raise ValueError("mine")

        scope.rule("exploding", action=failing, threshold=1e-9, patience=1, layers="0")
        train(model, optimizer, 2)
        assert len(seen) == 1
        assert scope.faults == {"an alert callback": 1}


def test_a_loss_spike_is_reported_in_steps_that_are_not_observed(model, optimizer):
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        train(
            model,
            optimizer,
            60,
            scope=scope,
            log=lambda step: 50.0 if step == 55 else 1.0 + 0.01 * (step % 7),
        )
        assert [(alert.rule, alert.step) for alert in scope.alerts] == [("loss_spike", 55)]


def test_off_removes_a_rule_and_a_new_rule_replaces_one_of_the_same_name(model, optimizer, scope):
    assert [rule.name for rule, _ in scope.rules].count("spike") == 1
    scope.rule("spike", action="off")
    assert "spike" not in [rule.name for rule, _ in scope.rules]
    scope.rule("exploding", threshold=5.0)
    assert [(r.threshold, a) for r, a in scope.rules if r.name == "exploding"] == [(5.0, "event")]


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, scope) -> None:
        self.now_s = 100.0
        scope._rules._limit.clock = lambda: self.now_s


def noting(name, judged, clock=None, takes_s=0.0):
    """A rule that finds nothing, takes so long over it, and notes which steps it has judged."""

    def check(reading, threshold, past):
        judged.append(reading.step)
        if clock is not None:
            clock.now_s += takes_s
        return []

    return Rule(dataclasses.replace(rule_kind("dead"), name=name, check=check))


@pytest.mark.parametrize(
    ("takes_s", "rests_s"), [(0.0, 0.04), (1e-4, 0.04), (2e-3, 0.4), (10e-3, 2.0), (1.0, 5.0)]
)
def test_rules_that_only_report_pause_200_times_as_long_as_judging_took(
    model, optimizer, scope, takes_s, rests_s
):
    clock, judged = Clock(scope), []
    scope._set_rules.set_by_script(noting("slow", judged, clock, takes_s), "event")
    train(model, optimizer, 200)
    assert judged == list(range(200)), "a short run is judged whole"
    clock.now_s += 0.99 * rests_s - takes_s
    train(model, optimizer, 3)
    assert len(judged) == 200
    clock.now_s += 0.02 * rests_s
    train(model, optimizer, 3)
    assert judged[200:] == [203]


def test_nonfinite_and_rules_with_an_action_judge_every_step(model, optimizer, scope):
    clock, rests, acts, told = Clock(scope), [], [], []
    scope._set_rules.set_by_script(noting("rests", rests, clock, 5e-3), "event")
    scope._set_rules.set_by_script(noting("acts", acts), lambda alert: None)
    train(model, optimizer, 201)
    scope.on_alert(told.append)
    with torch.no_grad():
        model[4].bias[0] = float("nan")
    train(model, optimizer, 1)
    assert [(alert.rule, alert.step) for alert in told] == [("nonfinite", 201)]
    assert acts == list(range(202))
    assert rests == list(range(200))


def test_a_slow_callback_does_not_limit_the_rate_of_rules(model, optimizer, scope):
    clock, judged = Clock(scope), []

    def take_long(_alert) -> None:
        clock.now_s += 0.5

    scope._set_rules.set_by_script(noting("quick", judged), "event")
    scope.rule("exploding", action=take_long, threshold=1e-9, patience=200)
    train(model, optimizer, 201)
    assert clock.now_s > 100.0, "it was called in step 199"
    assert judged == list(range(201)), "half a second later they judge again"


def test_a_finding_has_the_action_of_its_rule(model, optimizer, scope):
    scope.rule("exploding", action="skip_step", threshold=10.0, patience=1)
    train(model, optimizer, 1, lambda _step: 1e4)
    found = [finding for finding in scope.findings if finding.code == "exploding-gradient"]
    assert {finding.action for finding in found} == {"skip_step"}
    assert all(not finding.action for finding in scope.findings if finding not in found)


@pytest.mark.parametrize("action", ["event", "skip_step", "clip", "pause", "raise"])
def test_a_rule_that_raises_is_switched_off_in_words_and_the_other_rules_continue(
    model, optimizer, action, caplog
):
    def check(view, threshold, memory):
        raise KeyError(view.step)

    events = []
    broken = Rule(dataclasses.replace(rule_kind("exploding"), name="broken", check=check))
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        scope._run.faults.tell = lambda code, text: events.append((code, text))
        scope._set_rules.set_by_script(broken, action)
        train(model, optimizer, 3)
        assert scope.faults == {"the rule broken": 1}
        assert "broken" not in [rule.name for rule, _ in scope.rules]
        assert len(scope.rules) == len(RULES)
        with torch.no_grad():
            model[4].bias[0] = float("nan")
        train(model, optimizer, 1)
        assert [(alert.rule, alert.step) for alert in scope.alerts] == [("nonfinite", 3)]
    text = (
        "the rule broken failed: KeyError: 0. This rule is switched off; the other rules stay active."
    )
    assert events == [("fault.the-rule-broken", text)]
    assert text in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "implode"}, "expected one of: nonfinite, exploding"),
        ({"name": "spike", "action": "scream"}, "one of event, pause, skip_step"),
        ({"name": "spike", "threshold": -1.0}, "to be a number of at least 0"),
        ({"name": "spike", "threshold": (1.0, 2.0)}, "to be a number of at least 0"),
        ({"name": "update_ratio", "threshold": 1.0}, r"a pair \(minimum, maximum\)"),
        ({"name": "spike", "patience": 0}, "at least 1"),
        ({"name": "vanishing", "action": "clip"}, "no gradient norm"),
        ({"name": "update_ratio", "action": "skip_step"}, "after the optimizer has stepped"),
        ({"name": "loss_spike", "action": "skip_step"}, "after the optimizer has stepped"),
    ],
)
def test_invalid_arguments_of_a_rule_are_rejected(scope, arguments, words):
    with pytest.raises(UsageError, match=words):
        scope.rule(**arguments)


def test_an_unknown_layer_is_rejected_with_similar_names(scope):
    with pytest.raises(UnknownLayerError, match="no layer matches 'head'"):
        scope.rule("spike", layers="head")


def test_actions_on_values_that_differ_between_ranks_are_rejected(monkeypatch, model, optimizer):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        with pytest.raises(UsageError, match="not available for dead with 2 ranks"):
            scope.rule("dead", action="skip_step")
        scope.rule("spike", action="clip")
