"""A model that is trained without a step that ends: the reason is given once, and commands are refused with it."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.commands.queue import PendingCommand, ignore_done
from gradscope.agent.step.unregistered import unregistered_parameters
from gradscope.errors import NotMeasuredError
from support.models import make_model


class Listed(nn.Module):
    """Layers in a plain list, which torch does not register."""

    def __init__(self, head=None):
        super().__init__()
        self.layers = [nn.Linear(3, 4), nn.Linear(4, 2)]
        self.named = {"scale": nn.Parameter(torch.ones(2))}
        self.head = head

    def forward(self, x):
        out = self.layers[1](self.layers[0](x).relu()) * self.named["scale"]
        return out if self.head is None else self.head(out)

    def trained(self):
        return [*self.layers[0].parameters(), *self.layers[1].parameters(), *self.parameters()]


@pytest.fixture
def said(monkeypatch):
    """The warnings that were logged and sent as events: both must be the same."""
    events = []
    from gradscope.agent.run.context import RunContext

    monkeypatch.setattr(RunContext, "event", lambda self, *event: events.append(event))
    return events


def attached(model):
    return gradscope.attach(model, every=1, hub=None, record=False, quiet=True)


def train(model, update, count=20, batch=None):
    for i in range(count):
        model(torch.randn(5, 3) if batch is None else batch).square().mean().backward()
        update(i)


def by_hand(model, *, zeroes=False):
    def update(_):
        for p in model.parameters():
            p.data.sub_(p.grad, alpha=0.1)
            if zeroes:
                p.grad.zero_()
        if not zeroes:
            model.zero_grad()

    return update


@pytest.mark.parametrize("zeroes", [True, False])
def test_updates_by_hand_are_reported_once_after_eight_passes(said, caplog, zeroes):
    model = make_model(3, 4)
    with attached(model) as scope:
        train(model, by_hand(model, zeroes=zeroes), count=7)
        assert said == []
        train(model, by_hand(model, zeroes=zeroes), count=40)
        assert [(level, code) for level, code, _ in said] == [("warning", "no-step")]
        text = said[0][2]
        assert "8 forward passes" in text
        assert "no optimizer that holds parameters of the model has stepped" in text
        assert "scope.mark_step()" in text
        assert "attach(model, optimizer=...)" in text
        assert ("unless the script accumulates" in text) == zeroes
        assert caplog.messages == [f"gradscope: {text}"]
        assert scope.faults == {}
        with pytest.raises(NotMeasuredError, match="no optimizer that holds parameters"):
            scope.latest()


def test_an_unknown_optimizer_of_an_input_is_reported(said):
    model = make_model(3, 4).requires_grad_(False)
    image = torch.randn(5, 3, requires_grad=True)
    optimizer = torch.optim.Adam([image])
    with attached(model):
        train(model, lambda _: (optimizer.step(), optimizer.zero_grad()), batch=image)
    assert [code for _, code, _ in said] == ["no-step"]
    assert "the model has no trainable parameters" in said[0][2]


def test_layers_in_a_plain_list_are_named(said):
    model = Listed()
    assert list(unregistered_parameters(model)) == [
        *(f"layers[{i}].{name}" for i in (0, 1) for name in ("weight", "bias")),
        "named['scale']",
    ]
    optimizer = torch.optim.SGD(model.trained(), lr=0.1)
    with attached(model):
        train(model, lambda _: (optimizer.step(), optimizer.zero_grad()))
    assert [code for _, code, _ in said] == ["no-step"]
    assert "layers[0].weight, layers[0].bias, layers[1].weight, layers[1].bias and 1 more" in said[0][2]
    assert "nn.ModuleList" in said[0][2]


def test_unregistered_layers_of_a_model_whose_steps_end_are_named_once_if_they_are_trained(said):
    for is_trained in (False, True):
        model = Listed(head=nn.Linear(2, 1))
        for p in model.trained()[:4]:
            p.requires_grad_(is_trained)
        model.named["scale"].requires_grad_(is_trained)
        optimizer = torch.optim.SGD([p for p in model.trained() if p.requires_grad], lr=0.1)
        with attached(model) as scope:
            train(model, lambda _, optimizer=optimizer: (optimizer.step(), optimizer.zero_grad()))
            assert scope.step == 20
    assert [code for _, code, _ in said] == ["unregistered-parameters"]
    assert said[0][2].startswith("Trainable parameters in a plain list or dict are not registered")


@pytest.mark.parametrize("kind", ["accumulation", "evaluation with gradients", "an optimizer"])
def test_nothing_is_reported_while_gradients_accumulate_in_evaluation_and_in_a_usual_training(
    said, kind
):
    model = make_model(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attached(model):
        if kind == "evaluation with gradients":
            for _ in range(40):
                model(torch.randn(5, 3))
        every = 40 if kind == "accumulation" else 1
        train(
            model,
            lambda i: (optimizer.step(), optimizer.zero_grad()) if i % every == every - 1 else None,
            count=80,
        )
    assert said == []


def test_queued_and_later_commands_are_refused_with_the_reason_until_a_step_ends(said):
    model = make_model(3, 4)
    refused, applied = [], []

    def put(scope):
        command = PendingCommand(
            lambda boundary: applied.append(boundary.step), ignore_done, refused.append
        )
        scope._commands.queue.put(command)

    with attached(model) as scope:
        train(model, by_hand(model), count=2)
        put(scope)
        assert refused == []
        train(model, by_hand(model), count=20)
        assert refused == [said[0][2]]
        put(scope)
        assert refused == [said[0][2]] * 2
        scope.mark_step()
        put(scope)
        scope.mark_step()
        assert applied == [2]
        assert len(refused) == 2
