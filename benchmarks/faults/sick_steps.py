"""Faults of a step: what optimizer, clipping and loss scale do, and outputs that change their form."""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, Optimizer

from benchmarks.faults import proofs
from benchmarks.faults.data import CLASSES, FEATURES, images, sequences, vectors
from benchmarks.faults.models import Recurrent, cnn, mlp
from benchmarks.faults.program import Parts, Sick, sick, train

__all__ = ["STEPS"]


def _zero_rate(is_sick: bool) -> Parts:
    model = cnn()
    groups = [
        {"params": model[:6].parameters(), "lr": 0.0 if is_sick else 0.05},
        {"params": model[9].parameters()},
    ]
    return train(model, images, optimizer=SGD(groups, 0.05))


class _Rebinding(Optimizer):
    """An optimizer that computes new weights and, if `is_sick`, does not write them."""

    def __init__(self, parameters: object, *, is_sick: bool) -> None:
        super().__init__(parameters, {})
        self.is_sick = is_sick

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if self.is_sick:
                    p = p - 0.1 * p.grad  # noqa: PLW2901 - the fault
                else:
                    p -= 0.1 * p.grad  # noqa: PLW2901


def _unwritten(is_sick: bool) -> Parts:
    model = mlp()
    return train(model, vectors, optimizer=_Rebinding(model.parameters(), is_sick=is_sick))


def _masters(is_sick: bool) -> Parts:
    """Float32 copies are updated; if `is_sick`, they are not written back to the bf16 model."""
    model = mlp().bfloat16()
    copies = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = Adam(copies, 3e-3)

    def step(_step: int) -> Tensor:
        x, y = vectors()
        model.zero_grad()
        loss = F.cross_entropy(model(x.bfloat16()).float(), y)
        loss.backward()
        for copied, p in zip(copies, model.parameters(), strict=True):
            copied.grad = None if p.grad is None else p.grad.float()
        optimizer.step()
        if not is_sick:
            with torch.no_grad():
                for copied, p in zip(copies, model.parameters(), strict=True):
                    p.copy_(copied)
        return loss

    return Parts(model, [optimizer], step=step)


def _scaled(is_sick: bool) -> Parts:
    """Gradients are clipped with the loss scale still in them."""
    model = mlp()
    optimizer, scaler = SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu")
    start = [p.detach().clone() for p in model.parameters()]

    def step(_step: int) -> Tensor:
        x, y = vectors()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if not is_sick:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    def change() -> float:
        return sum(float((p - s).norm()) for p, s in zip(model.parameters(), start, strict=True))

    return Parts(model, [optimizer], step=step, measure=change)


def _clipped(make: type[nn.Module], data: object, rate: float) -> object:
    def program(is_sick: bool) -> Parts:
        model = make()
        optimizer, shares = SGD(model.parameters(), rate), list[float]()
        loss_of = train(model, data).loss

        def step(number: int) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(number)
            loss.backward()
            limit = 1e-3 if is_sick else 1.0
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), limit))
            shares.append(min(1.0, limit / norm))
            optimizer.step()
            return loss

        return Parts(model, [optimizer], step=step, measure=proofs.mean_of(shares))

    return program


def _lower_precision_left_on(is_sick: bool) -> Parts:
    """After a validation in bf16 the model stays in bf16."""
    model = mlp()

    def before(step: int) -> None:
        if step == 30:
            model.bfloat16()
            with torch.no_grad():
                model(vectors()[0].bfloat16())
            if not is_sick:
                model.float()

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        return F.cross_entropy(model(x.to(model[0].weight.dtype)), y)

    return Parts(
        model,
        [SGD(model.parameters(), 0.1)],
        loss,
        before=before,
        measure=lambda: torch.finfo(model[0].weight.dtype).eps,
    )


def _autocast_at_times(is_sick: bool) -> Parts:
    """The step is under autocast only while a flag of the evaluation is on."""
    model, widths = cnn(), list[float]()
    model[0].register_forward_hook(lambda _m, _i, out: widths.append(torch.finfo(out.dtype).eps))

    def loss(step: int) -> Tensor:
        x, y = images()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_sick and step >= 25):
            out = model(x)
        return F.cross_entropy(out.float(), y)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss, measure=lambda: widths[-1])


def _one_sample(is_sick: bool) -> Parts:
    """From step 30 on, the loader gives one sample without a batch dimension."""
    model, ranks = mlp(), list[float]()

    def loss(step: int) -> Tensor:
        x, y = vectors()
        if is_sick and step >= 30:
            x, y = x[0], y[0]
        out = model(x)
        ranks.append(1.0 / out.dim())
        return F.cross_entropy(out, y)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss, measure=lambda: ranks[-1])


class _Pooling(nn.Module):
    """An encoder whose flag, set by a validation, switches the pooling off."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head, self.pooled = nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES), True

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encoder(x).relu()
        out: Tensor = self.head(hidden[:, -1] if self.pooled else hidden)
        return out


def _pooling_off(is_sick: bool) -> Parts:
    model = _Pooling()

    def before(step: int) -> None:
        if step == 30:
            model.pooled = not is_sick

    def loss(_step: int) -> Tensor:
        x, y = sequences()
        out = model(x)
        return F.cross_entropy(out.mean(1) if out.dim() == 3 else out, y)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss, before=before)


_MLP, _LSTM = functools.partial(mlp), functools.partial(Recurrent)

STEPS: tuple[Sick, ...] = (
    sick(
        "float32 copies that are not written back",
        "no-update stale-optimizer lost-updates",
        "",
        _masters,
        proofs.moved(""),
    ),
    sick(
        "clipping before unscale_",
        "clip-before-unscale",
        "",
        _scaled,
        proofs.lower("change of the weights", 100),
    ),
    sick(
        "clipping to 0.001",
        "clipping-always",
        "",
        _clipped(_MLP, vectors, 0.1),
        proofs.lower("share of the gradient that is kept", 20),
    ),
    sick(
        "clipping to 0.001 in an LSTM",
        "clipping-always",
        "",
        _clipped(_LSTM, sequences, 0.5),
        proofs.lower("share of the gradient that is kept", 20),
    ),
    sick(
        "bf16 is left on after a validation",
        "dtype-changed",
        "0 2 4",
        _lower_precision_left_on,
        proofs.higher("resolution of the weights", 100),
    ),
    sick(
        "autocast is on from step 25",
        "dtype-changed",
        "0",
        _autocast_at_times,
        proofs.higher("resolution of the output", 100),
    ),
    sick(
        "samples without a batch dimension from step 30",
        "shape-changed",
        "0 2 4 1",
        _one_sample,
        proofs.higher("1 / rank of the output", 1.5),
    ),
    sick(
        "a pooling is switched off at step 30",
        "shape-changed",
        "head",
        _pooling_off,
        proofs.higher_loss(1.5),
    ),
    sick("a learning rate of 0 for the body", "no-update", "0 3", _zero_rate, proofs.moved("0")),
    sick("an optimizer that does not write", "no-update", "", _unwritten, proofs.moved("")),
)
"""All programs of this subject."""
