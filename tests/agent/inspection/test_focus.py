"""A focus on layers: their numbers in steps between the observed ones, and nothing else changed."""

import contextlib
import itertools
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer

import gradscope
from gradscope.agent.inspection import focus
from gradscope.agent.inspection.focus import Focus
from gradscope.errors import (
    CommandRefusedError,
    NotMeasuredError,
    UnknownLayerError,
    UsageError,
)
from support import fork_server
from support.models import batches, make_normalized_model, train

LAYER = "4"


def hooks_of_torch():
    tables = torch_module._global_forward_hooks, torch_optimizer._global_optimizer_pre_hooks
    return [len(table) for table in tables]


def observed_by(model, optimizer, *, steps=9, before=lambda scope: None, **attach):
    """Train; return whole steps and focus steps by their number, and what else is to be looked at."""
    whole, close = {}, {}
    with gradscope.attach(model, optimizer, hub=None, quiet=True, **attach) as scope:
        before(scope)

        def look(_loss):
            whole[scope.latest().step] = scope.latest()
            if scope.focus_every and scope.focused:
                with contextlib.suppress(NotMeasuredError):  # the first step was observed as a whole
                    close[scope.latest_focus().step] = scope.latest_focus()

        train(model, optimizer, batches(steps), look)
        assert scope.faults == {}
    return whole, close


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("detail", ["core", "full"])
def test_training_with_a_focus_is_bitwise_the_same_and_leaves_nothing(detail):
    results, before = [], hooks_of_torch()
    for is_attached in (False, True):
        model = make_normalized_model()
        keys = [set(m.__dict__) for m in model.modules()]
        optimizer = torch.optim.AdamW(model.parameters())
        losses, scope = [], None
        if is_attached:
            scope = gradscope.attach(model, every=3, hub=None, detail=detail, quiet=True)
            assert scope.focus(LAYER, "0") == ("0", LAYER)
        train(model, optimizer, batches(8), lambda loss, losses=losses: losses.append(loss.detach()))
        if scope is not None:
            assert scope.latest_focus().step == 7
            assert scope.latest().step == 6
            assert scope.faults == {}
            scope.detach()
        assert [set(m.__dict__) for m in model.modules()] == keys
        gradients = [p.grad.clone() for p in model.parameters()]
        states = [v.clone() for v in model.state_dict().values()]
        results.append([*losses, *gradients, *states, torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert hooks_of_torch() == before


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("detail", ["core", "full"])
def test_a_focus_step_has_the_statistics_of_a_whole_step_for_the_layers_in_focus(
    detail, is_native, monkeypatch
):
    if not is_native:
        monkeypatch.setenv("GRADSCOPE_NATIVE", "0")
    model = make_normalized_model()
    every, _ = observed_by(model, sgd(model), every=1, detail=detail)
    model = make_normalized_model()
    whole, close = observed_by(
        model, sgd(model), every=4, detail=detail, before=lambda scope: scope.focus(LAYER)
    )
    assert sorted(whole) == [0, 4, 8]
    assert sorted(close) == [1, 2, 3, 5, 6, 7]
    for step, table in close.items():
        assert list(table) == [LAYER]
        assert {"out", "grad", "param.weight", "param_grad", "update.bias"} < set(table[LAYER])
        assert {k: str(table[LAYER][k]) for k in table[LAYER]} == {
            k: str(every[step][LAYER][k]) for k in every[step][LAYER]
        }
        assert table.every == 1
    for step, table in whole.items():
        assert {k: str(table["0"][k]) for k in table["0"]} == {
            k: str(every[step]["0"][k]) for k in every[step]["0"]
        }


def test_between_observed_steps_and_focus_steps_the_model_has_no_hook(monkeypatch):
    model, counts = make_normalized_model(), []
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)  # no rule asks for further steps
    with gradscope.attach(model, hub=None, quiet=True, resources_every=10_000) as scope:
        monkeypatch.setattr(scope._run.sampler, "_choose", lambda _budget: (6, 3))
        scope.focus(LAYER)
        for batch in batches(50):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            counts.append((scope.step, len(torch_module._global_forward_hooks)))
            loss.backward()
            optimizer.step()
    hooked = [step for step, count in counts[20:] if count]
    assert {b - a for a, b in itertools.pairwise(hooked)} == {3}


def test_closures_mark_step_and_clipping_are_observed_in_focus_steps():
    model = make_normalized_model()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    with gradscope.attach(model, optimizer, every=5, hub=None, quiet=True) as scope:
        scope.focus(LAYER)
        for batch in batches(3):

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = model(batch).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)
        assert scope.latest_focus().step == 2
        assert {"out", "param", "param_grad", "update"} <= set(scope.latest_focus()[LAYER])
        assert scope.faults == {}

    model = make_normalized_model()
    with gradscope.attach(model, every=5, hub=None, quiet=True) as scope:
        scope.focus(LAYER)
        for batch in batches(3):
            model(batch).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            scope.mark_step()
        norm = scope.latest_focus()[LAYER]["param_grad.weight"].norm
        assert norm == pytest.approx(model[4].weight.grad.double().norm().item())
        assert scope.latest_focus()[LAYER]["param_grad_before_clip"].norm > 10 * norm
        assert scope.faults == {}


def test_interventions_are_visible_in_focus_steps():
    model = make_normalized_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer, every=50, hub=None, quiet=True) as scope:
        scope.focus(LAYER)
        train(model, optimizer, batches(2))
        scope.scale(LAYER, factor=3.0)
        scope.reverse("0")
        train(model, optimizer, batches(2))
        rows = scope.latest_focus()
        assert list(rows) == [LAYER]
        assert rows[LAYER]["grad"].norm == pytest.approx(3 * rows[LAYER]["grad_arriving"].norm)
        assert scope.faults == {}


def test_a_replaced_parameter_or_module_is_followed():
    model = make_normalized_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer, every=4, hub=None, quiet=True) as scope:
        scope.focus(LAYER)
        train(model, optimizer, batches(3))
        model[4].weight = nn.Parameter(torch.ones(3, 8))
        optimizer.add_param_group({"params": [model[4].weight]})
        train(model, optimizer, batches(4))  # steps 3 to 6
        assert scope.latest_focus().step == 6
        assert scope.latest_focus()[LAYER]["param.weight"].mean == 1.0
        model[4] = nn.Linear(8, 3)
        optimizer.add_param_group({"params": list(model[4].parameters())})
        train(model, optimizer, batches(3))  # step 8 is observed as a whole, and follows
        assert scope.latest_focus().step == 9
        expected = model[4].weight.double().norm().item()
        assert scope.latest_focus()[LAYER]["param.weight"].norm == pytest.approx(expected)
        assert scope.focused == (LAYER,)
        assert scope.faults == {}


def test_a_layer_that_is_not_called_reports_nothing():
    model = nn.ModuleDict({"used": nn.Linear(6, 3), "unused": nn.ReLU()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=4, hub=None, quiet=True) as scope:
        scope.focus("unused")
        train(model["used"], optimizer, batches(3))
        with pytest.raises(NotMeasuredError):
            scope.latest_focus()
        scope.focus("*")
        train(model["used"], optimizer, batches(3))
        assert list(scope.latest_focus()) == ["used"]
        assert scope.faults == {}


def test_valid_and_invalid_arguments_of_focus():
    model = make_normalized_model()
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer, every=4, hub=None, quiet=True) as scope:
        with pytest.raises(NotMeasuredError, match="no focus step"):
            scope.latest_focus()
        with pytest.raises(UnknownLayerError, match="no layer matches 'nope'"):
            scope.focus("nope")
        assert scope.focus("[04]") == ("0", LAYER)
        train(model, optimizer, batches(3))
        assert scope.focus_every == 1
        assert scope.focus("0") == scope.focused == ("0",)
        train(model, optimizer, batches(3))
        assert list(scope.latest_focus()) == ["0"]
        assert scope.focus() == scope.focused == ()
        train(model, optimizer, batches(3))
        assert (scope.latest_focus().step, scope.focus_every) == (6, 0)  # which had begun
    many = nn.Sequential(*(nn.Linear(2, 2) for _ in range(17)))
    too_many = pytest.raises(UsageError, match=r"at most 16 layers in a focus, but .* matches 17")
    with gradscope.attach(many, hub=None, quiet=True) as scope, too_many:
        scope.focus("*")


def test_requests_of_several_viewers_add_up_and_end_with_the_viewer(monkeypatch):
    now_s, applied, ended = [100.0], [], []
    monkeypatch.setattr(focus.time, "monotonic", lambda: now_s[0])
    tracker = SimpleNamespace(watched_names=("a", "b", "c"))
    part = Focus(
        SimpleNamespace(plan_again=lambda: None, sampler=SimpleNamespace(focus=lambda _share: None)),
        SimpleNamespace(tracker=tracker, focus=applied.append),
        SimpleNamespace(request=lambda _action, target: ended.append(target)),
    )
    part.set_layers(("b",))
    part.set_layers(("c",), "v1")
    part.set_layers(("a", "b"), "v2")
    part._seen_s |= {"v1": 100.0, "v2": 100.0}
    part.at_boundary(1)
    part.at_boundary(2)
    assert applied == [("a", "b", "c")]
    now_s[0] += 8.0
    part.on_viewers(["v1", "other"])
    now_s[0] += 8.0
    part.at_boundary(3)
    part.at_boundary(4)
    assert ended == ["v2"]
    part.set_layers((), "v2")
    part.at_boundary(5)
    assert applied[1:] == [("b", "c")]


COMPILED = """
import torch, gradscope
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
with gradscope.attach(model, every=2, hub=None, quiet=True) as scope:
    scope.focus("0")
    net = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        net(torch.randn(3, 4)).sum().backward()
        optimizer.step()
    try:
        scope.latest_focus()
    except gradscope.errors.NotMeasuredError:
        print("no focus step", scope.faults)
    try:
        scope.focus("0")
    except gradscope.errors.UsageError as error:
        print(error)
"""


def test_focus_is_rejected_under_torch_compile():
    command = [sys.executable, "-c", COMPILED]
    done = fork_server.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no focus step {}" in done.stdout
    assert "focus() does not work with torch.compile" in done.stdout


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_layer_can_be_in_the_focus():
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=50, hub=None, quiet=True) as scope:
        scope.focus("1")
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
        assert scope.latest_focus()["1"]["param_grad.weight"].count == 8
        assert scope.faults == {}


class Trainer:
    """Trains in a thread until it is closed."""

    def __init__(self, hub):
        self.model = make_normalized_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.scope = gradscope.attach(self.model, self.optimizer, every=50, hub=hub, quiet=True)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="training")
        self._thread.start()

    def _run(self):
        while not self._end.is_set():
            train(self.model, self.optimizer, batches(1))
            time.sleep(0.002)

    def close(self):
        self._end.set()
        self._thread.join(10)
        self.scope.detach()


@pytest.fixture
def watched(hub):
    trainer = Trainer(str(hub.directory))
    yield trainer
    trainer.close()
    assert trainer.scope.faults == {}


def test_the_focus_of_a_viewer_ends_with_the_viewer(watched, hub, wait_until, monkeypatch):
    monkeypatch.setattr(focus, "VIEWER_TIMEOUT_S", 1.0)
    scope = watched.scope
    with gradscope.connect(scope.run, str(hub.directory)) as client:
        wait_until(lambda: any(r.run == scope.run and r.is_live for r in client.runs()), "the run")
        ack = client.focus("0")
        assert ack.layers == ("0",)
        focus_steps = client.focus_steps(10.0)
        taken = [next(focus_steps) for _ in range(20)]
        assert all(list(table) == ["0"] and table.every == 1 for table in taken)
        steps = [table.step for table in taken]
        assert steps == sorted(set(steps))
        assert {"out", "grad", "param_grad", "update"} <= set(taken[0]["0"])
        assert client.latest().step % 50 == 0, "focus steps are not observed steps"
        with gradscope.connect(scope.run, str(hub.directory)) as other:
            other.focus("2")
            assert scope.focused == ("0", "2")
            with pytest.raises(CommandRefusedError, match="no layer matches 'nope'"):
                other.focus("nope")
            other.focus()
            assert scope.focused == ("0",)
            assert {step.step % 50 for step, _ in zip(other.steps(10.0), range(3), strict=False)} == {0}
    wait_until(lambda: scope.focused == (), "the end of the focus")
    wait_until(lambda: scope.focus_every == 0, "the end of focus steps")


def test_an_observing_viewer_is_rejected(watched, hub):
    refused = pytest.raises(CommandRefusedError, match="observe only")
    run, directory = watched.scope.run, str(hub.directory)
    with gradscope.connect(run, directory, want="observe") as client, refused:
        client.focus("0")
    assert watched.scope.focused == ()
