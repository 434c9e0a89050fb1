"""Rules that viewers set: in force at a step boundary, over the script's, and until their end."""

import itertools
import threading
import time

import pytest
import torch

import gradscope
from gradscope.agent.monitors import set_rules
from gradscope.errors import CommandRefusedError
from gradscope.protocol import Command, RuleSetting
from support.models import make_deep_model

pytestmark = pytest.mark.slow

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


def train(model, optimizer, steps=1, loss_scale=1.0):
    for _ in range(steps):
        optimizer.zero_grad()
        (model(X).square().mean() * loss_scale).backward()
        optimizer.step()


class Training:
    """A training without a hub, whose commands are handled as those of the viewer `peer`."""

    def __init__(self):
        self.model = make_deep_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.scope = gradscope.attach(self.model, self.optimizer, every=1, hub=None, quiet=True)
        self.answers = []
        self.scope._commands._answer = self.answers.append
        self._ids = itertools.count()

    def send(self, action, *, setting=None, **fields):
        """Send a command, train a step, and return the answer."""
        id = next(self._ids).to_bytes(16, "big")
        command = Command(
            action=action, id=id, run=self.scope.run, peer="viewer", rule=setting, **fields
        )
        self.scope._commands.handle(command)
        self.step()
        return self.answers[-1]

    def set(self, *setting, **fields):
        return self.send("rule", setting=RuleSetting(*setting), **fields)

    def step(self, steps=1, **how):
        train(self.model, self.optimizer, steps, **how)

    @property
    def states(self):
        return self.scope._run.rules

    def active(self, name):
        return [(rule.threshold, action) for rule, action in self.scope.rules if rule.name == name]


@pytest.fixture
def training():
    made = Training()
    yield made
    made.scope.detach()
    assert made.scope.faults == {}


def test_a_rule_of_a_viewer_is_in_force_from_the_acknowledged_step_and_clips_from_it_on(training):
    training.step(3)
    ack = training.set("exploding", "clip", (0.01,), 1)
    assert (ack.is_done, ack.step, ack.id) == (True, 4, "rule-1")
    assert training.active("exploding") == [(0.01, "clip")]
    (state,) = training.states
    assert (state.id, state.setting.threshold, state.end) == (
        "rule-1", (0.01,), "while its viewer is connected",
    )  # fmt: skip
    before = [p.detach().clone() for p in training.model.parameters()]
    training.step(loss_scale=1e4)
    for layer in (training.model[0], training.model[2], training.model[4]):
        norm = torch.cat([p.grad.flatten() for p in layer.parameters()]).norm()
        assert norm == pytest.approx(0.01, rel=1e-5)
    assert all(
        (p - b).norm() <= 0.01 * 1e-3 * 1.01
        for p, b in zip(training.model.parameters(), before, strict=True)
    )


def test_if_a_rule_of_a_viewer_is_removed_that_of_the_script_is_active_again(training):
    training.scope.rule("spike", threshold=50.0, action="pause")
    first = training.set("spike", "event", (20.0,)).id
    second = training.set("spike", "clip", (30.0,)).id
    assert training.active("spike") == [(30.0, "clip")], "the later one replaces the earlier one"
    assert [state.id for state in training.states] == ["script-1", second]
    assert not training.send("unrule", target=first).is_done
    assert training.send("unrule", target=second).is_done
    assert training.active("spike") == [(50.0, "pause")]
    training.set("spike", "off")
    assert training.active("spike") == []
    training.send("unrule")
    assert training.active("spike") == [(50.0, "pause")]
    refused = training.send("unrule", target="script-1")
    assert "there are: none" in refused.reason


def test_a_condition_reports_with_its_words_and_counts_its_reports(training):
    alerts = []
    training.scope.on_alert(alerts.append)
    training.set('param_grad["0"].norm > 100')
    training.step(2)
    training.step(loss_scale=1e6)
    (alert,) = [each for each in alerts if each.rule == "condition"]
    assert alert.step == 3
    assert alert.text.startswith('param_grad["0"].norm > 100: param_grad["0"].norm is ')
    training.step()
    assert [state.reports for state in training.states] == [1]
    training.set("loss < 2")
    training.scope.log(loss=1.0)
    training.step(2)
    assert [each.step for each in alerts if "loss is 1" in each.text] == [5]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (("explodes",), "unknown rule 'explodes'"),
        (("exploding", "explode"), "expected the action of a rule to be one of event, pause"),
        (("exploding", "raise"), "the action raise is for the script"),
        (("dead", "clip"), "the action clip is not available for dead"),
        (("loss > 3", "skip_step"), "the action skip_step is not available for loss > 3"),
        (("loss > 3", "off"), "the action off is not available for the condition loss > 3"),
        (("exploding", "event", (1.0, 2.0, 3.0)), "one or two numbers, got 3"),
        (("exploding", "event", (-1.0,)), "to be a number of at least 0"),
        (("exploding", "event", (), 0), "integer of at least 1, got 0"),
        (("exploding", "event", (), None, ("nope",)), "no layer matches 'nope'"),
        (('grad["nope"].norm > 1',), "no layer matches 'nope'"),
        (("loss > ",), "expected a number"),
        (("loss > 3", "event", (3.0,)), "expected the limit and the layers of the rule"),
        (("step == 5",), "is on only the step"),
        (("loss > 3 and any.nan",), "is on layers and also on logged numbers"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_a_reason_and_changes_nothing(training, setting, words):
    before = training.scope.rules
    ack = training.set(*setting)
    assert not ack.is_done
    assert words in ack.reason
    assert training.scope.rules == before
    assert training.states == ()


class Clock:
    now_s = 1_000.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(set_rules, "time", made)
    return made


@pytest.mark.parametrize(
    ("how", "end_s"), [({}, 60.0), ({"end_s": 5.0}, 5.0), ({"is_kept": True}, None)]
)
def test_a_rule_ends_with_its_viewer_or_its_time_unless_it_is_kept(training, clock, how, end_s):
    training.set("spike", "pause", (30.0,), **how)
    clock.now_s += (end_s or 1e6) - 0.1
    training.step(2)
    assert training.active("spike") == [(30.0, "pause")]
    clock.now_s += 0.2
    training.step(2)
    assert training.active("spike") == [(10.0, "event") if end_s else (30.0, "pause")]
    assert len(training.states) == (0 if end_s else 1)


def test_a_viewer_that_stays_keeps_its_rule(training, clock):
    training.set("spike", "pause", (30.0,))
    for _ in range(5):
        clock.now_s += 50.0
        training.scope._on_viewers(("viewer",))
        training.step(2)
    assert training.active("spike") == [(30.0, "pause")]


def test_fifty_rules_are_possible_and_one_more_is_refused(training):
    for place in range(50):
        training.set(f"loss > {place}")
    assert len(training.states) == 50
    assert "at most 50 set rules" in training.set("loss > 50").reason
    assert training.set("loss > 7", "pause").is_done, "in the place of one"


class _Thread:
    """Trains in a thread until it is closed."""

    def __init__(self, hub):
        self.model = make_deep_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.scope = gradscope.attach(self.model, self.optimizer, every=1, hub=hub, quiet=True)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="training")
        self._thread.start()

    def _run(self):
        while not self._end.is_set():
            train(self.model, self.optimizer)
            time.sleep(0.002)

    def close(self):
        self._end.set()
        self._thread.join(10)
        self.scope.detach()


@pytest.mark.processes
def test_a_client_sets_lists_and_removes_a_rule_and_an_observer_may_not(hub, wait_until):
    trainer = _Thread(str(hub.directory))
    run, directory = trainer.scope.run, str(hub.directory)
    try:
        with gradscope.connect(run, directory) as client:
            wait_until(lambda: any(r.run == run and r.is_live for r in client.runs()), "the run")
            id = client.rule("vanishing", threshold=1e-9, patience=2, layers="0", action="pause")
            (state,) = client.rules()
            assert state.id == id
            assert state.setting == RuleSetting("vanishing", "pause", (1e-9,), 2, ("0",))
            with gradscope.connect(run, directory, want="observe") as observer:
                assert observer.rules() == (state,)
                with pytest.raises(CommandRefusedError, match="observe only"):
                    observer.rule("spike", action="off")
            client.remove_rule(id)
            assert client.rules() == ()
    finally:
        trainer.close()
    assert trainer.scope.faults == {}
