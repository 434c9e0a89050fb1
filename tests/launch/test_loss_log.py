"""The loss that `gradscope run` logs for a script: against the losses that the loop itself has computed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

import gradscope
from gradscope.launch.loss_log import LossLog


class Logged:
    """Scopes whose logged losses are kept: the newest of each step."""

    def __init__(self):
        self._open = []

    def attach(self, model, **options):
        scope = gradscope.attach(model, hub=None, quiet=True, **options)
        losses = {}
        log = scope.log

        def keep(**values):
            losses[scope.step] = values["loss"].item()
            log(**values)

        scope.log = keep
        loss_log = LossLog(scope, model)
        loss_log.install()
        self._open.append((scope, loss_log))
        return losses

    def close(self):
        for scope, loss_log in self._open:
            loss_log.remove()
            assert not scope.faults
            scope.detach()


@pytest.fixture
def logged():
    torch.manual_seed(0)
    made = Logged()
    yield made
    made.close()


def make_model():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def batches(count=6):
    return [torch.randn(4, 3) for _ in range(count)]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_passes_of_a_step_are_added_up(logged, set_to_none):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses, expected = logged.attach(model), {}
    for step in range(4):
        optimizer.zero_grad(set_to_none=set_to_none)
        total = torch.zeros(())
        for batch in batches(3):
            loss = model(batch).square().mean() / 3
            loss.backward()
            total = loss.detach() if not total else total + loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        expected[step] = total.item()
    assert losses == expected


def test_each_model_of_a_gan_has_its_own_loss(logged):
    generator, critic = make_model(), nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    of_generator = torch.optim.Adam(generator.parameters())
    of_critic = torch.optim.Adam(critic.parameters())
    generated, judged = logged.attach(generator), logged.attach(critic)
    expected_generated, expected_judged = {}, {}
    for step in range(4):
        noise = torch.randn(4, 3)
        critic.zero_grad()
        real = F.softplus(-critic(torch.randn(4, 1))).mean()
        real.backward()
        made = generator(noise)
        fake = F.softplus(critic(made.detach())).mean()
        fake.backward()
        of_critic.step()
        expected_judged[step] = (real + fake).item()
        generator.zero_grad()
        deceived = F.softplus(-critic(made)).mean()
        deceived.backward()
        of_generator.step()
        expected_generated[step] = deceived.item()
    assert generated == expected_generated
    del judged[4]  # the step that would follow: the generator's pass went through the critic
    assert judged == expected_judged


def test_of_two_passes_of_sam_the_second_counts(logged):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses, expected = logged.attach(model), {}
    for step in range(3):
        batch = torch.randn(4, 3)
        model(batch).square().mean().backward()
        moved = copy.deepcopy([parameter.detach() for parameter in model.parameters()])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=0.05)
        optimizer.zero_grad()
        second = model(batch).square().mean()
        second.backward()
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), moved, strict=True):
                parameter.copy_(old)
        optimizer.step()
        optimizer.zero_grad()
        expected[step] = second.item()
    assert losses == expected


def test_a_loss_is_logged_before_it_is_scaled(logged):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")
    losses, expected = logged.attach(model, scaler=scaler), {}
    for step in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        expected[step] = loss.item()
    assert losses == expected


def test_of_the_passes_of_a_closure_the_last_one_counts(logged):
    model = make_model()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    losses, last = logged.attach(model), {}
    batch = torch.randn(4, 3)
    for step in range(2):

        def closure(step=step):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            last[step] = loss.item()
            return loss

        optimizer.step(closure)
    assert losses == last


def test_a_frozen_first_layer_and_a_checkpoint_do_not_hide_the_loss(logged):
    model = make_model()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), 0.1)
    losses = logged.attach(model)
    run = torch.utils.checkpoint.checkpoint
    for _ in range(2):
        optimizer.zero_grad()
        hidden = model[1](model[0](torch.randn(4, 3))).requires_grad_()
        loss = run(model[2], hidden, use_reentrant=True).square().mean()
        loss.backward()
        optimizer.step()
        newest = loss.item()
    assert list(losses.values())[-1] == newest


def test_a_pass_that_begins_at_a_vector_or_that_misses_the_model_is_not_logged(logged):
    model, other = make_model(), make_model()
    losses = logged.attach(model)
    y = model(torch.randn(4, 3))
    y.backward(torch.ones_like(y))
    other(torch.randn(4, 3)).mean().backward()
    torch.autograd.backward([model(torch.randn(4, 3)).mean(), model(torch.randn(4, 3)).sum()])
    assert not losses


def test_a_training_has_the_same_bits_and_nothing_is_left_behind():
    def train(is_logged):
        torch.manual_seed(0)
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters(), 0.1)
        with gradscope.attach(model, hub=None, quiet=True) as scope:
            losses = LossLog(scope, model)
            if is_logged:
                losses.install()
            for batch in batches():
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
            losses.remove()
        assert not any(each._post_accumulate_grad_hooks for each in model.parameters())
        return [parameter.detach().clone() for parameter in model.parameters()]

    backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
    bare, observed = train(is_logged=False), train(is_logged=True)
    assert all(torch.equal(a, b) for a, b in zip(bare, observed, strict=True))
    assert (torch.autograd.backward, torch.amp.GradScaler.scale) == (backward, scale)
