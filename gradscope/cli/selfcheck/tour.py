"""`gradscope demo` without a terminal: observes a run, reverses a gradient, and checks the effect.

Two runs with the same seed train in parallel, one with gradscope and one without. Before the reversal,
all losses and gradients must be bitwise equal. In the first step with the reversal, according to the
acknowledgement, the gradient of the layer must be exactly the negative.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gradscope.cli import exit_codes
from gradscope.cli.output import print_lines
from gradscope.cli.selfcheck.compare import Comparison, compare
from gradscope.cli.selfcheck.stream_log import StreamLog
from gradscope.cli.selfcheck.trainer import Trainer, TrainerDiedError, await_run, new_run_name
from gradscope.client import Client

__all__ = ["run_tour"]

LAYER = "blocks.1.attention.proj"
_SHOWN = ("blocks.0.attention.qkv", "blocks.0.mlp.fc1", LAYER, "blocks.1.mlp.fc2", "head")
_TABLE_EVERY_S = 3.0
_RATE_HZ = 20.0
_POLL_S = 0.1
_ANSWER_S = 60.0
_CONTROL_S = 60.0


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A phase of the training: `steps` steps, or at least `least_steps` after `limit_s` on a slow machine."""

    steps: int
    least_steps: int
    limit_s: float


_BEFORE = _Stretch(steps=30, least_steps=15, limit_s=12.0)
_REVERSED = _Stretch(steps=20, least_steps=10, limit_s=8.0)
_AFTER = _Stretch(steps=10, least_steps=5, limit_s=4.0)


def run_tour(seed: int) -> int:
    """Run the self-check. Return 0 if all checks passed."""
    name = new_run_name()
    with tempfile.TemporaryDirectory(prefix="gradscope-demo-") as directory:
        kept = Path(directory, "control.npz"), Path(directory, "watched.npz")
        common = ("--seed", str(seed), "--of", LAYER, "--keep-gradients")
        print_lines(
            f"Two trainings of a small GPT on Python's help texts, seed {seed}, one thread each:",
            f"{name} is watched, the other is not. Starting them takes a few seconds ...",
            "",
        )
        control = Trainer(f"{name}-control", *common, str(kept[0]), "--no-gradscope", threads=1)
        watched = Trainer(name, *common, str(kept[1]), "--run-name", name, threads=1)
        # The second starts when the first runs: two imports of torch at once are slow.
        with watched, await_run(watched, name="gradscope demo", want="control") as client, control:
            tour = _Tour(client, watched)
            step, last_step = tour.run()
            watched.stop()
            _await_step(control, last_step)
            control.stop()
        for trainer, file in zip((control, watched), kept, strict=True):
            if not file.exists():
                raise TrainerDiedError(f"a training wrote no gradients; its output is in {trainer.log}")
        comparison = compare(*kept, step=step)
    _report(comparison, tour.seen)
    print_lines(f"The output of the trainings is in {watched.log} and {control.log}.")
    return exit_codes.DONE if comparison.holds else exit_codes.WRONG


class _Tour:
    """Observes the training, and installs and removes the intervention."""

    def __init__(self, client: Client, trainer: Trainer) -> None:
        self.seen = StreamLog(_SHOWN)
        self._client = client
        self._trainer = trainer
        self._shown_s = time.monotonic()

    def run(self) -> tuple[int, int]:
        """Observe, reverse, observe, remove, observe. Return the first and the last reversed step."""
        self._client.watch(self._trainer.name, max_rate_hz=_RATE_HZ)
        self._follow(0, _BEFORE)
        reversal = self._client.reverse(LAYER, timeout_s=_ANSWER_S)
        step = reversal.step or 0
        print_lines(f"Reversed the gradient arriving at {LAYER}: in force from step {step} on.", "")
        self._follow(step, _REVERSED)
        removal = self._client.remove(reversal.id, timeout_s=_ANSWER_S)
        print_lines(f"Removed: from step {removal.step} on the gradient is unchanged.", "")
        self._follow(removal.step or 0, _AFTER)
        return step, self.seen.step

    def _follow(self, first_step: int, stretch: _Stretch) -> None:
        """Print the newest steps until the phase is over that began with `first_step`."""
        begun_s = time.monotonic()
        while not self._trainer.is_done():
            for message in self._client.receive(_POLL_S):
                self.seen.note(message)
            now_s = time.monotonic()
            if now_s - self._shown_s > _TABLE_EVERY_S:
                self._shown_s = now_s
                print_lines(*self.seen.lines(), "")
            is_late = now_s - begun_s > stretch.limit_s
            if self.seen.step - first_step >= (stretch.least_steps if is_late else stretch.steps):
                return
        raise TrainerDiedError(
            f"the training ended in step {self.seen.step}, before the tour was over; "
            f"its output is in {self._trainer.log}"
        )


def _await_step(trainer: Trainer, step: int) -> None:
    """Wait until the training without gradscope has reached the step too."""
    deadline_s = time.monotonic() + _CONTROL_S
    while trainer.last_step() < step and not trainer.is_done():
        if time.monotonic() > deadline_s:
            raise TrainerDiedError(
                f"the unwatched training is at step {trainer.last_step()}, {_CONTROL_S:g} s after the "
                f"watched one came to step {step}; its output is in {trainer.log}"
            )
        time.sleep(_POLL_S)


def _report(comparison: Comparison, seen: StreamLog) -> None:
    step, last = comparison.step, comparison.last_step
    control_s, watched_s = comparison.median_step_s
    control_loss, watched_loss = comparison.last_losses
    before = "equal bit by bit" if comparison.is_same_before else "NOT EQUAL"
    exact = ", exactly its opposite" if comparison.is_exact_opposite else ""
    print_lines(
        f"The watched training compared with the other one; cosines of the weight gradients of {LAYER}:",
        f"  steps 0 to {step - 1}: cosine {comparison.cosine_before:+.6f}, "
        f"all losses and gradients {before}",
        f"  step {step}: cosine {comparison.cosine_at:+.6f}{exact}",
        f"  step {last}: loss {watched_loss:.4f} after the reversal, {control_loss:.4f} without",
        f"Observing: {seen.cost_line()};",
        f"the median step took {watched_s * 1e3:.0f} ms watched, {control_s * 1e3:.0f} ms not.",
        "All of it holds." if comparison.holds else "THIS DOES NOT HOLD: +1 was expected, then -1.",
    )
