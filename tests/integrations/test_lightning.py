"""The callback for Lightning's Trainer, in real trainings on the CPU."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import UsageError
from gradscope.integrations.trainer_scope import TrainerScope

L = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from gradscope.integrations.lightning import GradscopeCallback

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]  # Lightning's own warnings


def fp16():
    """Mixed precision whose scaler skips the first steps: the scaled gradients are beyond float16."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**24))


class Regression(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))
        self.losses = []

    def training_step(self, batch, index):
        x, y = batch
        loss = (self.net(x) - y).square().mean()
        self.losses.append(float(loss))
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.8)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Gan(Regression):
    """Two optimizers, stepped by hand; each has its own forward and its own loss."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(1, 1)

    def training_step(self, batch, index):
        first, second = self.optimizers()
        for optimizer, sign in ((second, -1), (first, 1)):
            loss = (
                sign * self.critic(self.net(batch[0]).tanh()).mean() + self.critic.weight.square().sum()
            )
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.losses.append(float(loss))

    def configure_optimizers(self):
        return [
            torch.optim.SGD(self.net.parameters(), lr=0.05),
            torch.optim.SGD(self.critic.parameters(), lr=0.01),
        ]


class Rates(L.Callback):
    """The learning rate at each optimizer step."""

    def __init__(self):
        self.values = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.values.append(optimizer.param_groups[0]["lr"])


def fit(data, tmp_path, *callbacks, model=Regression, checkpoint=None, **how):
    """Train on all batches; return the module and the trainer."""
    module = model()
    trainer = L.Trainer(
        callbacks=list(callbacks), accelerator="cpu", logger=CSVLogger(tmp_path), log_every_n_steps=5,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        **{"max_epochs": 1} | how,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    torch.manual_seed(1)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return module, trainer


def same(first, second):
    return first.losses == second.losses and all(
        torch.equal(one, other)
        for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (Regression, {}),
        (Regression, {"accumulate_grad_batches": 4, "gradient_clip_val": 0.5}),
        (Regression, {"precision": "bf16-mixed"}),
        (Regression, {"precision": "64-true"}),
        (Regression, {"plugins": fp16}),
        (Gan, {}),
    ],
    ids=["plain", "accumulation", "bf16", "float64", "fp16", "manual"],
)
def test_a_training_is_bitwise_the_same_and_its_numbers_are_those_of_the_trainer(
    data, tmp_path, scalars_of, model, how
):
    bare_calls, calls = ({k: v() if callable(v) else v for k, v in how.items()} for _ in range(2))
    plain = Rates()
    bare, _ = fit(data, tmp_path, plain, model=model, **bare_calls)
    callback = GradscopeCallback(every=1, quiet=True)
    observed, trainer = fit(data, tmp_path, callback, model=model, **calls)
    assert same(bare, observed)
    assert callback.scope.is_detached
    assert not callback.scope.faults
    found = scalars_of(callback.scope.run, trainer.global_step - 1)
    assert len(found) == callback.scope.step == trainer.global_step
    suffix = {step: f"_{2 - step % 2}" if model is Gan else "" for step in found}
    rates = [found[step]["lr" + suffix[step]] for step in sorted(found)]
    assert rates == pytest.approx(plain.values)
    window = how.get("accumulate_grad_batches", 1)
    losses = torch.tensor(bare.losses, dtype=torch.float64).reshape(-1, window).mean(1).tolist()
    logged = [found[step]["loss" + suffix[step]] for step in sorted(found)]
    assert logged == pytest.approx(losses, rel=1e-5)
    codes = {each.code for each in callback.scope.findings}
    assert codes <= ({"scaler-skip"} if "plugins" in how else set())


class Norms(L.Callback):
    """The norm of all gradients of a layer, in float64, at each optimizer step."""

    def __init__(self):
        self.values = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        every = torch.cat([p.grad.flatten().double() for p in pl_module.net[0].parameters()])
        self.values.append(float(every.norm()))


def test_the_gradient_that_is_shown_is_the_one_that_the_optimizer_receives(data, tmp_path):
    plain, callback = Norms(), GradscopeCallback(every=1, hub=None, quiet=True)
    fit(data, tmp_path, plain, callback, accumulate_grad_batches=4, gradient_clip_val=0.5)
    table = callback.scope.latest()
    assert table.step == 7
    # Lightning clips after this event.
    assert table["net.0"]["param_grad_before_clip"].norm == pytest.approx(plain.values[-1], rel=1e-5)


class Stopped(L.Callback):
    """Stops the training three steps after a client's intervention is in force."""

    def __init__(self, intervene, gradscope_callback):
        self._start, self._callback, self.sent = intervene, gradscope_callback, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 5:
            self.sent = self._start(self._callback.scope.run, "net.0")
        if self.sent and self.sent.step is not None and trainer.global_step >= self.sent.step + 3:
            trainer.should_stop = True


class StopsItself(L.Callback):
    """The same in a plain script: no gradient for a layer from a step on."""

    def __init__(self, step, last):
        self._step, self._last = step, last

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step >= self._step:
            for parameter in pl_module.net[0].parameters():
                parameter.grad.zero_()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step == self._last


def test_a_client_sees_the_run_and_changes_it(data, tmp_path, intervene):
    callback = GradscopeCallback(every=1, quiet=True)
    stopped = Stopped(intervene, callback)
    changed, trainer = fit(data, tmp_path, callback, stopped, max_epochs=-1)
    by_hand = StopsItself(stopped.sent.step, trainer.global_step)
    bare, _ = fit(data, tmp_path, by_hand, max_epochs=-1)
    assert same(bare, changed)
    assert callback.scope.latest()["net.0"]["param_grad"].norm == 0


def test_a_resumed_training_continues_at_its_step(data, tmp_path, scalars_of):
    _, trainer = fit(data, tmp_path, max_steps=6)
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    callback = GradscopeCallback(every=1, quiet=True)
    _, trainer = fit(
        data, tmp_path, callback, checkpoint=tmp_path / "six.ckpt", max_steps=10, max_epochs=9
    )
    found = scalars_of(callback.scope.run, 9)
    assert sorted(found) == [6, 7, 8, 9]
    assert callback.scope.step == trainer.global_step == 10


class Frozen(Regression):
    def configure_optimizers(self):
        return torch.optim.SGD(self.net[3].parameters(), lr=0.05)  # the fault: not net[0]


def test_a_finding_is_a_metric_of_the_loggers(data, tmp_path):
    callback = GradscopeCallback(every=1, hub=None, quiet=True)
    _, trainer = fit(data, tmp_path, callback, model=Frozen)
    assert "not-in-optimizer" in {each.code for each in callback.scope.findings}
    text = Path(trainer.logger.log_dir, "metrics.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["gradscope/not-in-optimizer"]]
    assert [float(row["gradscope/not-in-optimizer"]) for row in rows] == [1.0]


def test_a_second_callback_does_nothing(data, tmp_path, caplog):
    bare, _ = fit(data, tmp_path)
    first, second = (GradscopeCallback(every=1, hub=None, quiet=True) for _ in range(2))
    observed, _ = fit(data, tmp_path, first, second)
    assert same(bare, observed)
    assert first.scope.step == 32
    assert second.scope is None
    assert "another callback observes this model already" in caplog.text


class Attached(Regression):
    def on_fit_start(self):
        self.scope = gradscope.attach(self, every=1, hub=None, quiet=True)


def test_a_module_that_the_script_has_attached_keeps_its_scope(data, tmp_path):
    callback = GradscopeCallback()
    module, _ = fit(data, tmp_path, callback, model=Attached)
    assert callback.scope is module.scope
    assert not module.scope.is_detached
    assert module.scope.step == 32
    module.scope.detach()


class Failing(Regression):
    def training_step(self, batch, index):
        if index == 3:
            raise RuntimeError("boom")
        return super().training_step(batch, index)


def test_an_exception_passes_unchanged_and_detaches(data, tmp_path):
    callback = GradscopeCallback(every=1, hub=None, quiet=True)
    with pytest.raises(RuntimeError, match=r"^boom$"):
        fit(data, tmp_path, callback, model=Failing)
    assert callback.scope.is_detached
    assert callback.scope.step == 3


def test_wrong_options_are_named():
    with pytest.raises(UsageError, match=r"has no option .interval.; .*every"):
        GradscopeCallback(interval=1)


def test_a_layer_that_does_not_exist_is_named_before_the_first_step(data, tmp_path):
    with pytest.raises(UsageError, match="nett"):
        fit(data, tmp_path, GradscopeCallback(layers="nett.*", hub=None, quiet=True))


def test_an_error_of_gradscope_does_not_stop_the_training(data, tmp_path, monkeypatch, caplog):
    def fail(self, optimizer, index=0):
        raise ZeroDivisionError("ours")

    bare, _ = fit(data, tmp_path)
    monkeypatch.setattr(TrainerScope, "log_optimizer", fail)
    callback = GradscopeCallback(every=1, hub=None, quiet=True)
    with caplog.at_level(logging.WARNING):
        observed, _ = fit(data, tmp_path, callback)
    assert same(bare, observed)
    assert caplog.text.count("training continues") == 1
    assert callback.scope.is_detached


def test_nothing_is_attached_if_the_environment_says_so(data, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADSCOPE", "0")
    callback = GradscopeCallback(every=1)
    bare, _ = fit(data, tmp_path)
    observed, _ = fit(data, tmp_path, callback)
    assert same(bare, observed)
    assert gradscope.scopes() == []
