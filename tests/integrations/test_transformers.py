"""The callback for Transformers' Trainer, in real trainings on the CPU."""

import logging

import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.integrations.trainer_scope import TrainerScope

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from gradscope.integrations.transformers import GradscopeCallback

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]  # Transformers' own warnings


def tokens(count=24):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 32, (count, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in rows]


def gpt():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


class Regression(nn.Module):
    """A model of the script's own whose gradients are large enough to overflow under a loss scale."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        self.losses = []

    def forward(self, x, y):
        loss = (self.net(x) - y).square().mean()
        self.losses.append(float(loss))
        return {"loss": loss}


def rows(data):
    return [{"x": x, "y": y} for x, y in data]


def fit(model, rows, folder, *callbacks, scaler=None, resume=None, **how):
    """Train for one epoch; return the trainer."""
    how = {"save_strategy": "no", "num_train_epochs": 1, "logging_steps": 1} | how
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, learning_rate=0.05, report_to=[], use_cpu=True,
        disable_tqdm=True, seed=3, **how,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=list(callbacks))
    if scaler is not None:
        trainer.accelerator.scaler = scaler  # Accelerate makes none for a CPU
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


class Plain(TrainerCallback):
    """The rate and the norm of all gradients of a layer at each optimizer step."""

    def __init__(self, layer):
        self._layer, self.rates, self.norms = layer, [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        every = kwargs["model"].get_submodule(self._layer).parameters()
        self.norms.append(float(torch.cat([p.grad.flatten().double() for p in every]).norm()))
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"gradient_checkpointing": True, "bf16": True},
    ],
    ids=["plain", "accumulation", "checkpointing-bf16"],
)
def test_a_training_is_bitwise_the_same_and_its_numbers_are_those_of_the_trainer(
    tmp_path, scalars_of, how
):
    plain = Plain("transformer.h.1.mlp.c_fc")
    bare, observed, callback = gpt(), gpt(), GradscopeCallback(every=1, quiet=True)
    first = fit(bare, tokens(), tmp_path, plain, **how)
    second = fit(observed, tokens(), tmp_path, callback, **how)
    assert same(bare, observed)
    entries = [each for each in first.state.log_history if "loss" in each]
    assert [each for each in second.state.log_history if "loss" in each] == entries
    assert callback.scope.is_detached
    assert not callback.scope.faults
    assert not callback.scope.findings
    found = scalars_of(callback.scope.run, len(entries) - 1)
    assert callback.scope.step == second.state.global_step == len(found) == len(entries)
    for step, entry in enumerate(entries):
        assert found[step]["loss"] == pytest.approx(entry["loss"], rel=1e-4)
        assert found[step]["lr"] == pytest.approx(plain.rates[step])
    shown = callback.scope.latest()["transformer.h.1.mlp.c_fc"]["param_grad"]
    assert shown.norm == pytest.approx(plain.norms[-1], rel=1e-5)


def test_a_step_that_the_loss_scaler_skips_is_a_step(data, tmp_path, scalars_of):
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**127)  # beyond it, float32 overflows

    bare, observed, callback = Regression(), Regression(), GradscopeCallback(every=1, quiet=True)
    how = {"max_grad_norm": 0}
    fit(bare, rows(data), tmp_path, scaler=scaler(), **how)
    trainer = fit(observed, rows(data), tmp_path, callback, scaler=scaler(), **how)
    assert same(bare, observed)
    assert callback.scope.step == trainer.state.global_step == 32
    found = scalars_of(callback.scope.run, 31)
    assert [found[step]["loss"] for step in range(32)] == pytest.approx(bare.losses, rel=1e-5)
    assert {each.code for each in callback.scope.findings} == {"scaler-skip"}


def test_a_resumed_training_continues_at_its_step(tmp_path, scalars_of):
    fit(gpt(), tokens(), tmp_path, save_strategy="steps", save_steps=4)
    bare, observed, callback = gpt(), gpt(), GradscopeCallback(every=1, quiet=True)
    checkpoint = str(tmp_path / "checkpoint-4")
    fit(bare, tokens(), tmp_path / "bare", resume=checkpoint)
    trainer = fit(observed, tokens(), tmp_path / "observed", callback, resume=checkpoint)
    assert same(bare, observed)
    assert sorted(scalars_of(callback.scope.run, 5)) == [4, 5]
    assert callback.scope.step == trainer.state.global_step == 6


class Stopped(TrainerCallback):
    """Stops the training three steps after a client's intervention is in force."""

    def __init__(self, intervene, gradscope_callback):
        self._start, self._callback, self.sent = intervene, gradscope_callback, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            self.sent = self._start(self._callback.scope.run, "net.0")
        if self.sent and self.sent.step is not None and state.global_step >= self.sent.step + 3:
            control.should_training_stop = True


class StopsItself(TrainerCallback):
    """The same in a plain script: no gradient for a layer from a step on."""

    def __init__(self, step, last):
        self._step, self._last = step, last

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step >= self._step:
            for parameter in kwargs["model"].net[0].parameters():
                parameter.grad.zero_()

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self._last


def test_a_client_sees_the_run_and_changes_it(data, tmp_path, intervene):
    how = {"num_train_epochs": 1000, "optim": "sgd", "logging_steps": 100_000, "max_grad_norm": 0}
    callback, changed, bare = GradscopeCallback(every=1, quiet=True), Regression(), Regression()
    stopped = Stopped(intervene, callback)
    trainer = fit(changed, rows(data), tmp_path, callback, stopped, **how)
    by_hand = StopsItself(stopped.sent.step, trainer.state.global_step)
    fit(bare, rows(data), tmp_path, by_hand, **how)
    assert same(bare, changed)


class Detached(Regression):
    def forward(self, x, y):
        return {"loss": (self.net[2](self.net[1](self.net[0](x).detach())) - y).square().mean()}


def test_a_finding_is_an_entry_of_the_log_before_the_trainers_last_one(data, tmp_path):
    callback = GradscopeCallback(every=1, hub=None, quiet=True)
    trainer = fit(Detached(), rows(data), tmp_path, callback)
    history = trainer.state.log_history
    assert "train_runtime" in history[-1]
    entries = [each for each in history if "gradscope/finding" in each]
    assert [each["gradscope/finding"] for each in entries] == [
        each.code for each in callback.scope.findings
    ]
    assert "net.0" in entries[0]["gradscope/message"]
    assert entries[0]["step"] < 32


def test_a_second_callback_does_nothing(data, tmp_path, caplog):
    first, second = (GradscopeCallback(every=1, hub=None, quiet=True) for _ in range(2))
    with caplog.at_level(logging.WARNING):
        fit(Regression(), rows(data), tmp_path, first, second)
    assert first.scope.step == 32
    assert second.scope is None
    assert "another callback observes this model already" in caplog.text


def test_wrong_options_are_named():
    with pytest.raises(UsageError, match=r"has no option .interval.; .*every"):
        GradscopeCallback(interval=1)


def test_an_error_of_gradscope_does_not_stop_the_training(data, tmp_path, monkeypatch, caplog):
    def fail(self, optimizer, index=0):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(TrainerScope, "log_optimizer", fail)
    bare, observed = Regression(), Regression()
    fit(bare, rows(data), tmp_path)
    with caplog.at_level(logging.WARNING):
        fit(observed, rows(data), tmp_path, GradscopeCallback(every=1, hub=None, quiet=True))
    assert same(bare, observed)
    assert caplog.text.count("training continues") == 1
