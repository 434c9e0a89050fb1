"""Backward passes of all kinds: penalties, kept graphs, evaluation between, exceptions."""

import torch
from torch import nn
from trials import Case, Trial, trained
from trials.case import loss_of, train

from cases.calling import Two
from cases.models import linear_stack, mlp, rows

__all__ = ["CASES"]


def backwards(work):
    """Return a case of two steps, in each of which `work(model, x, t)` does the backward passes."""

    def run(t: Trial) -> None:
        model = t.watch(mlp())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            t.attempt(lambda: work(model, rows().requires_grad_(), t))
            t.step(optimizer)

    return run


def gradient_penalty(model, x, t):
    output = model(x)
    (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    loss = output.square().mean() + (slope.norm() - 1).square()
    loss.backward()
    t.keep(slope, loss)


def second_order_backward(model, x, t):
    loss = loss_of(model(x))
    loss.backward(create_graph=True, inputs=list(model.parameters()))
    t.keep(*[p.grad for p in model.parameters()])
    for p in model.parameters():
        p.grad = p.grad.detach()


def three_backwards(model, x, t):
    loss = loss_of(model(x))
    for is_kept in (True, True, False):
        loss.backward(retain_graph=is_kept)


def two_losses(model, x, t):
    output = model(x)
    output[:, 0].sum().backward(retain_graph=True)
    output[:, 1].square().sum().backward()


def by_autograd_grad(model, x, t):
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss_of(model(x)), parameters)
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g


def a_subset_of_inputs(model, x, t):
    loss_of(model(x)).backward(inputs=list(model[3].parameters()))


def backward_twice_is_an_error(model, x, t):
    loss = loss_of(model(x))
    loss.backward()
    t.attempt(loss.backward)


def evaluation_between(context):
    def work(model, x, t):
        with context():
            t.keep(model(x))
        loss_of(model(x)).backward()
        model.eval()
        with context():
            t.keep(model(x))
        model.train()

    return work


def functional_call(model, x, t):
    values = {name: p * 1.5 for name, p in model.named_parameters()}
    output = torch.func.functional_call(model, values, (x,))
    loss_of(output).backward()
    t.keep(output)


def anomaly(work):
    def run(t: Trial) -> None:
        with torch.autograd.set_detect_anomaly(True):
            backwards(work)(t)

    return run


def gives_nan(model, x, t):
    output = model(x)
    ((output - output.detach()).sum() * 0.0).sqrt().mul(0.0).backward()


def overwritten(model, x, t):
    """Raise the version error: what the sigmoid saved is changed before its backward."""
    hidden = model[4](model[:4](x))
    hidden.mul_(2.0)
    loss_of(hidden).backward()


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ZeroDivisionError("mine, in backward")


class FailsOnce(nn.Module):
    """Raises the first time, in forward or in backward."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.inner, self.where, self.calls = nn.Linear(6, 6), where, 0

    def forward(self, x):
        self.calls += 1
        out = self.inner(x)
        if self.calls == 1 and self.where == "forward":
            raise KeyError("mine")
        return Fails.apply(out) if self.calls == 1 else out


def failing(where):
    def run(t: Trial) -> None:
        model = t.watch(nn.Sequential(nn.Linear(6, 6), FailsOnce(where), nn.Linear(6, 2)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        t.attempt(lambda: train(t, model, [rows()], optimizer))
        t.step(optimizer)
        train(t, model, [rows(), rows()], optimizer)

    return run


def with_wrong_shape(model, x, t):
    t.attempt(lambda: model(x[:, :5]))
    loss_of(model(x)).backward()


def saved_tensor_hooks(model, x, t):
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (packed.append(tuple(tensor.shape)), tensor)[1], lambda tensor: tensor
    ):
        loss_of(model(x)).backward()
    t.keep(packed)


def accumulated(t: Trial) -> None:
    model = t.watch(mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for _ in range(4):
            (loss_of(model(rows())) / 4).backward()
        t.step(optimizer)
        optimizer.zero_grad()


def truncated(t: Trial) -> None:
    """Backward through a graph that was built in the step before."""
    model = t.watch(linear_stack(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    early = model(rows())
    loss_of(early).backward(retain_graph=True)
    t.step(optimizer)
    t.without_reference()
    loss_of(model(rows()) + early).backward()
    t.step(optimizer)


CASES = (
    Case("gradient penalty", backwards(gradient_penalty)),
    Case("backward with create_graph", backwards(second_order_backward)),
    Case("three backward passes through one graph", backwards(three_backwards)),
    Case("two losses of one forward", backwards(two_losses)),
    Case("torch.autograd.grad", backwards(by_autograd_grad)),
    Case("backward to some inputs only", backwards(a_subset_of_inputs)),
    Case("backward twice is an error", backwards(backward_twice_is_an_error)),
    Case("evaluation under no_grad between", backwards(evaluation_between(torch.no_grad))),
    Case("evaluation in inference mode between", backwards(evaluation_between(torch.inference_mode))),
    Case("functional_call with other values", backwards(functional_call)),
    Case("anomaly mode", anomaly(two_losses)),
    Case("anomaly mode finds NaN", anomaly(gives_nan)),
    Case("a saved tensor was overwritten", backwards(overwritten)),
    Case("an exception in forward, then on", failing("forward")),
    Case("an exception in backward, then on", failing("backward")),
    Case("an input of the wrong shape, then on", backwards(with_wrong_shape)),
    Case("user's hooks on saved tensors", backwards(saved_tensor_hooks)),
    Case("gradients accumulated over four batches", accumulated),
    Case("a graph kept from the step before", truncated),
    Case("tied weights, two backward passes", trained(lambda: Two(is_tied_only=True), rows)),
)  # fmt: skip
