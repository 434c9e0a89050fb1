"""How quiet the rules and checks are on healthy trainings: python -m benchmarks.quiet_rules [--steps N].

Trains the demo's GPT, a residual network and an LSTM, every step observed at full detail, and prints
each finding. A finding here is a false alarm.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

import gradscope
from gradscope.demo.model import GPT, Config
from gradscope.demo.text import Characters, Windows, load_text
from gradscope.findings import Finding

__all__ = ["TRAININGS", "Training", "findings_of"]

BATCH = 16
WARMUP = 50


@dataclass(frozen=True, slots=True)
class Training:
    """A model, its optimizer, its schedule, and an endless stream of losses."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: Iterator[Tensor]


def gpt(steps: int) -> Training:
    """Return the demo's GPT on its text, as the demo trains it."""
    text = load_text()
    characters = Characters(text)
    config = Config(vocabulary_size=len(characters))
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    windows = Windows(characters.encode(text), config.block_size)
    return _training(model, optimizer, steps, _language(model, windows))


class Recurrent(nn.Module):
    """An LSTM that reads characters."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        hidden, _ = self.lstm(self.embedding(tokens))
        logits: Tensor = self.head(hidden)
        return logits


def lstm(steps: int) -> Training:
    """Return an LSTM on the demo's text, with Adam."""
    text = load_text()
    characters = Characters(text)
    model = Recurrent(len(characters))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return _training(model, optimizer, steps, _language(model, Windows(characters.encode(text), 48)))


class Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


def resnet(steps: int) -> Training:
    """Return a residual network on made images: ten patterns, shifted, under noise; SGD."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        Residual(8, 8), Residual(8, 16), Residual(16, 32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    return _training(model, optimizer, steps, _images(model))


def _training(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, losses: Iterator[Tensor]
) -> Training:
    def rate(step: int) -> float:
        return min((step + 1) / WARMUP, 1.0) * max(0.05, 1 - step / steps)

    return Training(model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate), losses)


def _language(model: nn.Module, windows: Windows) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        chosen = torch.randint(len(windows), (BATCH,), generator=generator).tolist()
        pairs = [windows[i] for i in chosen]
        inputs = torch.stack([pair[0] for pair in pairs])
        targets = torch.stack([pair[1] for pair in pairs])
        yield F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def _images(model: nn.Module) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(10, 1, 16, 16, generator=generator)
    while True:
        labels = torch.randint(10, (32,), generator=generator)
        shift = int(torch.randint(16, (), generator=generator))
        noise = torch.randn(32, 1, 16, 16, generator=generator)
        yield F.cross_entropy(model(patterns[labels].roll(shift, -1) + noise), labels)


TRAININGS: dict[str, Callable[[int], Training]] = {"gpt": gpt, "resnet": resnet, "lstm": lstm}


def findings_of(name: str, steps: int) -> tuple[tuple[Finding, ...], list[float]]:
    """Train a number of steps; return all findings, and the losses."""
    torch.manual_seed(0)
    training = TRAININGS[name](steps)
    losses: list[float] = []
    with gradscope.attach(
        training.model, training.optimizer, every=1, detail="full", hub=None, quiet=True
    ) as scope:
        for _ in range(steps):
            loss = next(training.losses)
            training.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
            scope.log(loss=loss)
            training.optimizer.step()
            training.schedule.step()
            losses.append(loss.item())
        if scope.faults:
            raise RuntimeError(scope.faults)
        return scope.findings, losses


def main() -> None:
    """Train all three and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", choices=[*TRAININGS])
    options = parser.parse_args()
    for name in [options.only] if options.only else TRAININGS:
        began_s = time.perf_counter()
        findings, losses = findings_of(name, options.steps)
        spent_s = time.perf_counter() - began_s
        print(
            f"{name}: {len(findings)} findings in {options.steps} steps, loss {losses[0]:.3f} -> "
            f"{losses[-1]:.3f}, {spent_s:.0f} s",
            flush=True,
        )
        for each in findings:
            print(f"  step {each.found_step} {each.severity} {each.code}: {each.message}", flush=True)


if __name__ == "__main__":
    main()
