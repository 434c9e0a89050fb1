"""The tracker for Accelerate, in real trainings on the CPU."""

import pytest
import torch
from torch import nn

from gradscope.errors import UsageError

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from gradscope.integrations.accelerate import GradscopeTracker

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]  # Accelerate's own warnings


class Memory(GeneralTracker):
    """A tracker of the script's own that keeps what is logged."""

    name = "memory"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.entries = []

    @property
    def tracker(self):
        return self.entries

    def log(self, values, step=None, **kwargs):
        self.entries.append((step, values))


class Training:
    """A loop as Accelerate's documentation writes it, over two windows of 16 or accumulating ones of two batches."""

    def __init__(self, data, *, accumulate=2, scaler=None, make=torch.optim.SGD, held=lambda net: net):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = make(held(net).parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.8)
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        self.memory = Memory()
        self.accelerator = Accelerator(
            cpu=True, gradient_accumulation_steps=accumulate, log_with=[self.memory]
        )
        self.accelerator.scaler = scaler  # Accelerate makes none for a CPU
        self.net, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            net, optimizer, loader, scheduler
        )
        self.losses, self.rates, self.norm = [], [], 0.0

    def run(self, *, epochs=1, after_step=lambda step: False, before_optimizer=lambda step: None):
        """Train; `after_step` returns whether to end."""
        accelerator, step = self.accelerator, 0
        accelerator.init_trackers("test")
        for x, y in (batch for _ in range(epochs) for batch in self.loader):
            with accelerator.accumulate(self.net):
                loss = (self.net(x) - y).square().mean()
                accelerator.backward(loss)
                self.losses.append(float(loss))
                if accelerator.sync_gradients:
                    every = torch.cat([p.grad.flatten().double() for p in self.net[2].parameters()])
                    self.norm = float(every.norm())
                    self.rates.append(self.optimizer.param_groups[0]["lr"])
                    before_optimizer(step)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                accelerator.log({"loss_of_last_batch": float(loss), "text": "no number"}, step=step)
                if after_step(step):
                    break
        accelerator.end_training()
        return self


def same(first, second):
    pairs = zip(first.net.parameters(), second.net.parameters(), strict=True)
    return first.losses == second.losses and all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_training_is_bitwise_the_same_and_its_numbers_are_those_of_the_loop(
    data, scalars_of, accumulate
):
    bare, observed = (Training(data, accumulate=accumulate) for _ in range(2))
    bare.run()
    tracker = GradscopeTracker(observed.accelerator, observed.net, every=1, quiet=True)
    observed.run()
    assert same(bare, observed)
    assert observed.memory.entries == bare.memory.entries
    scope, steps = tracker.scope, 32 // accumulate
    assert scope.is_detached
    assert not scope.faults
    assert not scope.findings
    assert scope.step == steps
    found = scalars_of(scope.run, steps - 1)
    losses = torch.tensor(bare.losses, dtype=torch.float64).reshape(-1, accumulate)
    assert [found[step]["loss"] for step in range(steps)] == pytest.approx(losses.mean(1).tolist())
    assert [found[step]["lr"] for step in range(steps)] == pytest.approx(bare.rates)
    logged = [found[step]["loss_of_last_batch"] for step in range(steps)]
    assert logged == pytest.approx(losses[:, -1].tolist())
    assert "text" not in found[0]
    assert scope.latest()["2"]["param_grad"].norm == pytest.approx(bare.norm, rel=1e-5)


def test_a_loss_scaler_changes_neither_the_training_nor_the_loss(data, scalars_of):
    def training():
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # the first gradients overflow
        return Training(data, accumulate=1, scaler=scaler)

    bare, observed = training().run(), training()
    tracker = GradscopeTracker(observed.accelerator, observed.net, every=1, quiet=True)
    observed.run()
    assert same(bare, observed)
    assert {each.code for each in tracker.scope.findings} == {"scaler-skip"}
    last = tracker.scope.step - 1
    assert scalars_of(tracker.scope.run, last)[last]["loss"] == pytest.approx(bare.losses[-1])


def test_a_client_sees_the_run_and_changes_it(data, intervene):
    changed, bare = Training(data), Training(data)
    tracker = GradscopeTracker(changed.accelerator, changed.net, every=1, quiet=True)
    sent, steps = [], []

    def after_step(step):
        steps.append(step)
        if step == 5:
            sent.append(intervene(tracker.scope.run, "0"))
        return bool(sent) and sent[0].step is not None and step >= sent[0].step + 3

    def by_hand(step):
        if step >= sent[0].step:
            for parameter in bare.net[0].parameters():
                parameter.grad.zero_()

    changed.run(epochs=1000, after_step=after_step)
    bare.run(epochs=1000, before_optimizer=by_hand, after_step=lambda step: step == steps[-1])
    assert same(bare, changed)


def test_a_finding_is_a_metric_of_the_other_trackers(data):
    training = Training(data, held=lambda net: net[2])  # the fault: net[0] is in no optimizer
    tracker = GradscopeTracker(training.accelerator, training.net, every=1, hub=None, quiet=True)
    training.run()
    assert [each.code for each in tracker.scope.findings] == ["not-in-optimizer"]
    found = [entry for entry in training.memory.entries if "gradscope/not-in-optimizer" in entry[1]]
    assert [values for _, values in found] == [{"gradscope/not-in-optimizer": 1.0}]


def test_a_model_that_was_not_prepared_is_an_error(data):
    training = Training(data)
    with pytest.raises(UsageError, match="make it after prepare"):
        GradscopeTracker(training.accelerator, nn.Linear(5, 1))
    assert training.accelerator.trackers == []


def test_a_second_tracker_of_a_model_does_nothing(data, caplog):
    training = Training(data)
    first, second = (
        GradscopeTracker(training.accelerator, training.net, every=1, hub=None, quiet=True)
        for _ in range(2)
    )
    training.run()
    assert first.scope.step == 16
    assert second.scope is None
    assert "another callback observes this model already" in caplog.text
