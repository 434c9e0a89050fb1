"""Trains the GPT. A training script as anyone writes it; gradscope is the line with `attach`."""

import argparse
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler

import gradscope
from gradscope.demo.model import GPT, Config
from gradscope.demo.text import Characters, Windows, load_text

__all__ = ["main", "train"]

BATCH_SIZE = 16
LEARNING_RATE = 1e-3
WARMUP_STEPS = 50
EVALUATE_EVERY = 100
SAMPLE_EVERY = 500
LOG_EVERY = 10


def main(arguments: list[str] | None = None) -> None:
    """Train with the options of the command line."""
    # A job scheduler ends a job with SIGTERM: exit through the interpreter, so that open files are closed.
    signal.signal(signal.SIGTERM, _leave)
    try:
        train(_parse(arguments))
    except KeyboardInterrupt:
        sys.exit(130)


def train(options: argparse.Namespace) -> None:
    """Train the model for `options.steps` steps."""
    torch.manual_seed(options.seed)
    text = load_text()
    characters = Characters(text)
    tokens = characters.encode(text)
    held_out = len(tokens) // 10

    config = Config(vocabulary_size=len(characters))
    model = GPT(config).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    batches = _batches(Windows(tokens[:-held_out], config.block_size), options.steps, options.seed)
    held_out_batches = list(_batches(Windows(tokens[-held_out:], config.block_size), 4, seed=0))

    if options.gradscope:
        scope = gradscope.attach(model, optimizer, name=options.run_name)

    kept = _Kept(model, options.of) if options.keep_gradients else None
    started_s = time.perf_counter()
    try:
        for step, (inputs, targets) in enumerate(batches):
            loss = _loss(model, inputs.to(options.device), targets.to(options.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own has no annotations
            if kept:
                kept.keep(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if options.gradscope:
                scope.log(loss=loss, lr=schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()

            if step % LOG_EVERY == 0:
                rate = (step + 1) / (time.perf_counter() - started_s)
                print(f"step {step:6d}  loss {loss.item():.4f}  {rate:.1f} steps/s", flush=True)
            if step % EVALUATE_EVERY == EVALUATE_EVERY - 1:
                print(f"step {step:6d}  held out {_evaluate(model, held_out_batches):.4f}", flush=True)
            if step % SAMPLE_EVERY == SAMPLE_EVERY - 1:
                print(_sample(model, characters), flush=True)
    finally:
        if kept:
            kept.write(options.keep_gradients)


def _batches(windows: Windows, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(
        windows, replacement=True, num_samples=count * BATCH_SIZE, generator=generator
    )
    return iter(DataLoader(windows, batch_size=BATCH_SIZE, sampler=order))


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up to 1, then half a cosine down to 0.1."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))


def _loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def _evaluate(model: GPT, batches: list[tuple[Tensor, Tensor]]) -> float:
    device = model.head.weight.device
    model.eval()
    losses = [_loss(model, inputs.to(device), targets.to(device)).item() for inputs, targets in batches]
    model.train()
    return sum(losses) / len(losses)


def _sample(model: GPT, characters: Characters) -> str:
    device = model.head.weight.device
    generator = torch.Generator(device).manual_seed(0)
    model.eval()
    prompt = characters.encode("The ").to(device)[None]
    tokens = model.generate(prompt, 120, generator)
    model.train()
    return characters.decode(tokens[0].cpu())


class _Kept:
    """Records one layer's weight gradients, the losses and the times of all steps, to compare two runs."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        self._weight = model.get_parameter(f"{layer}.weight")
        self._gradients: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._ends_s = [time.perf_counter()]

    def keep(self, loss: Tensor) -> None:
        """Record the gradient and loss of the step whose backward has just ended."""
        if self._weight.grad is not None:
            self._gradients.append(self._weight.grad.cpu().clone())
        self._losses.append(loss.detach().cpu().clone())
        self._ends_s.append(time.perf_counter())

    def write(self, path: Path) -> None:
        """Write `gradient`, of shape (steps, …), and `loss` and `seconds`, of shape (steps,), as an .npz file.

        If no step was recorded, no file is written.
        """
        if not self._losses:
            return
        np.savez(
            path,
            gradient=torch.stack(self._gradients).numpy(),
            loss=torch.stack(self._losses).numpy(),
            seconds=np.diff(self._ends_s),
        )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gradscope.demo", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--run-name", default=None, help="the run's name in gradscope")
    parser.add_argument(
        "--no-gradscope", dest="gradscope", action="store_false", help="train unwatched"
    )
    parser.add_argument(
        "--keep-gradients", type=Path, metavar="FILE", help="write gradients to an .npz"
    )
    parser.add_argument("--of", default="head", metavar="LAYER", help="whose weight gradient is kept")
    return parser.parse_args(arguments)


def _leave(signal_number: int, _frame: object) -> NoReturn:
    sys.exit(128 + signal_number)
