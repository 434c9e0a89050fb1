"""Optimizers, loss scales, precisions: what happens around `optimizer.step()`."""

import torch
from torch import nn
from trials import Case, Trial, trained
from trials.case import loss_of, train

from cases.models import linear_stack, mlp, rows

__all__ = ["CASES"]


def with_optimizer(make, model=mlp, **options):
    return trained(model, rows, optimizer=lambda ps: make(ps, lr=0.01, **options))


def closures(make, **options):
    """Return a case whose optimizer evaluates the model itself, perhaps several times a step."""

    def run(t: Trial) -> None:
        model = t.watch(linear_stack())
        optimizer = make(model.parameters(), **options)
        for _ in range(3):
            x = rows()

            def closure(x=x):
                optimizer.zero_grad()
                loss = loss_of(model(x))
                loss.backward()
                t.evaluated(optimizer)
                return loss

            t.keep(t.step(optimizer, closure=closure))

    return run


def scaled(make, *, overflows_at=(), is_clipped=False):
    """Return a case under a GradScaler that gradscope knows; in the reference run there is none.

    A scale that is a power of two leaves every bit of a float32 gradient as it was.
    """

    def run(t: Trial) -> None:
        model = mlp()
        scaler = torch.amp.GradScaler(
            "cpu", init_scale=512.0, growth_interval=2, enabled=not t.is_reference
        )
        t.stored_scaled()
        t.watch(model, scaler=scaler)
        optimizer = make(model.parameters())
        for i in range(5):
            optimizer.zero_grad()
            loss = loss_of(model(rows()))
            if i in overflows_at:
                t.discard(lambda: _overflow(scaler, loss, optimizer))  # noqa: B023 - called at once
                continue
            scaler.scale(loss).backward()
            if is_clipped:
                scaler.unscale_(optimizer)
                t.clip(model, lambda ps: nn.utils.clip_grad_norm_(ps, 0.1))
            t.step(optimizer, by=lambda: scaler.step(optimizer))
            scaler.update()
            t.keep(loss)

    return run


def _overflow(scaler, loss, optimizer) -> None:
    scaler.scale(loss * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()


def half_scaled(make):
    """Return a case under a GradScaler that gradscope does not know, with half-precision autocast."""

    def run(t: Trial) -> None:
        t.without_reference()
        model = t.watch(mlp())
        scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)
        optimizer = make(model.parameters())
        for i in range(5):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(model(rows()).float()) * (float("inf") if i == 2 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            t.keep(loss, scaler.get_scale(), scaler.state_dict())

    return run


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def fused(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, fused=True)


def clipped(by):
    def run(t: Trial) -> None:
        model = t.watch(mlp())
        optimizer = sgd(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model(rows())).backward()
            t.clip(model, by)
            t.step(optimizer)

    return run


def scheduled(t: Trial) -> None:
    model = t.watch(mlp())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    for _ in range(3):
        train(t, model, [rows()], optimizer)
        schedule.step()
    t.keep(schedule.get_last_lr(), list(optimizer.state_dict()["state"].values()))


def adversaries(t: Trial) -> None:
    """A GAN: each optimizer steps after a forward of its own, so each ends a step."""
    model = t.watch(nn.ModuleDict({"g": linear_stack(2), "d": linear_stack(2)}))
    d, g = (torch.optim.Adam(model[name].parameters(), lr=0.01) for name in "dg")
    for _ in range(3):
        d.zero_grad()
        loss_of(model["d"](model["g"](rows()).detach())).backward()
        t.step(d)
        g.zero_grad()
        loss_of(model["d"](model["g"](rows()))).backward()
        t.step(g)


def without_an_optimizer(t: Trial) -> None:
    model = t.watch(mlp())
    for _ in range(3):
        model.zero_grad()
        loss_of(model(rows())).backward()
        t.step()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad, alpha=0.1)


def gradients_set_to_zero(t: Trial) -> None:
    model = t.watch(mlp())
    optimizer = sgd(model.parameters())
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        loss_of(model(rows())).backward()
        t.step(optimizer)


def only_some_parameters(t: Trial) -> None:
    model = t.watch(mlp())
    optimizer = sgd(model[3].parameters())
    for _ in range(2):
        train(t, model, [rows()], optimizer)


def state_restored(t: Trial) -> None:
    model = t.watch(mlp())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(t, model, [rows()], optimizer)
    saved = {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()
    train(t, model, [rows()], optimizer)
    model.load_state_dict(saved[0], assign=False)
    optimizer.load_state_dict(saved[1])
    train(t, model, [rows()], optimizer)


def sparse(t: Trial) -> None:
    model = t.watch(nn.Sequential(nn.Embedding(20, 6, sparse=True), nn.Flatten(), nn.Linear(18, 2)))
    embedding = torch.optim.SparseAdam(model[0].parameters(), lr=0.1)
    linear = sgd(model[2].parameters())
    for _ in range(3):
        indices = torch.randint(0, 8, (4, 3))
        embedding.zero_grad()
        linear.zero_grad()
        loss_of(model(indices)).backward()
        t.step(embedding, ends=False)
        t.step(linear)


def in_dtype(dtype):
    return trained(lambda: mlp().to(dtype), lambda: rows().to(dtype))


def autocast(dtype):
    def run(t: Trial) -> None:
        model = t.watch(mlp())

        def forward(x):
            with torch.autocast("cpu", dtype):
                return model(x).float()

        train(t, model, [rows() for _ in range(3)], forward=forward)

    return run


class ComplexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6, dtype=torch.complex64)
        self.angle = nn.Linear(6, 3, dtype=torch.complex64)

    def forward(self, x):
        return self.angle(self.linear(x.to(torch.complex64)).conj() * 1j)


class Ema:
    """Averages of a model, by torch's own AveragedModel, updated between steps."""

    def __call__(self, t: Trial) -> None:
        model = t.watch(mlp())
        averaged = torch.optim.swa_utils.AveragedModel(model)
        for _ in range(3):
            train(t, model, [rows()])
            averaged.update_parameters(model)
        t.keep(dict(averaged.state_dict()), averaged(rows()))


OPTIMIZERS = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "ASGD",
              "RMSprop", "Rprop", "Adafactor")  # fmt: skip
SCALED = (("SGD", sgd), ("fused AdamW", fused))

CASES = (
    *(Case(name, with_optimizer(getattr(torch.optim, name))) for name in OPTIMIZERS),
    Case("AdamW, fused", with_optimizer(torch.optim.AdamW, fused=True)),
    Case("AdamW, one tensor at a time", with_optimizer(torch.optim.AdamW, foreach=False)),
    Case("AdamW, many tensors at a time", with_optimizer(torch.optim.AdamW, foreach=True)),
    Case("Adam with amsgrad", with_optimizer(torch.optim.Adam, amsgrad=True)),
    Case("SGD with momentum, fused", with_optimizer(torch.optim.SGD, momentum=0.9, fused=True)),
    Case("LBFGS", closures(torch.optim.LBFGS, lr=0.1, max_iter=4)),
    Case("SGD with a closure", closures(torch.optim.SGD, lr=0.1)),
    Case("gradients clipped by norm", clipped(lambda ps: nn.utils.clip_grad_norm_(ps, 0.01))),
    Case("gradients clipped by their largest", clipped(
        lambda ps: nn.utils.clip_grad_norm_(ps, 0.01, norm_type=float("inf"), foreach=False))),
    Case("gradients clipped by value", clipped(lambda ps: nn.utils.clip_grad_value_(ps, 0.001))),
    Case("a learning rate schedule", scheduled),
    Case("two optimizers of two networks", adversaries),
    Case("no optimizer", without_an_optimizer),
    Case("gradients set to zero", gradients_set_to_zero),
    Case("an optimizer of some parameters", only_some_parameters),
    Case("model and optimizer restored", state_restored),
    Case("sparse gradients", sparse),
    Case("averaged models", Ema()),
    *(Case(f"GradScaler, {name}", scaled(make)) for name, make in SCALED),
    Case("GradScaler that skips steps", scaled(sgd, overflows_at=(1, 2))),
    Case("GradScaler, unscaled and clipped", scaled(sgd, is_clipped=True)),
    *(Case(f"GradScaler unknown to gradscope, {name}", half_scaled(make))
      for name, make in SCALED),
    *(Case(f"parameters in {d}", in_dtype(d)) for d in (torch.float64, torch.bfloat16, torch.float16)),
    *(Case(f"autocast to {d}", autocast(d)) for d in (torch.bfloat16, torch.float16)),
    Case("complex parameters", trained(ComplexNet, rows)),
)  # fmt: skip
