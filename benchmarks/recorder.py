"""What the flight recorder costs in a step: a training with and without it, in turns.

python -m benchmarks.recorder
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it

import gradscope

_STEPS = 20


class Training:
    """A small training, attached, with or without the recorder."""

    def __init__(self, width: int, depth: int, *, has_recorder: bool) -> None:
        torch.manual_seed(0)
        layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
        self.model = nn.Sequential(*layers, nn.Linear(width, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)
        self.x, self.y = torch.randn(16, width), torch.arange(16) % 4
        self.scope = gradscope.attach(self.model, hub=None, record=False, quiet=True, every=10**6)
        if not has_recorder:
            self.scope._recorder.close()  # noqa: SLF001 - no setting switches it off
        self.seconds()

    def seconds(self) -> float:
        """Return the processor time of a step, in seconds."""
        began = time.process_time()
        for _ in range(_STEPS):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
        return (time.process_time() - began) / _STEPS


def main() -> None:
    """Print the difference for three sizes. The smallest time of each counts: others contain interruptions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for width, depth in ((16, 2), (64, 8), (128, 32)):
        with_it, without = (Training(width, depth, has_recorder=has) for has in (True, False))
        pairs = [(with_it.seconds(), without.seconds()) for _ in range(rounds)]
        recorded, bare = (min(times) for times in zip(*pairs, strict=True))
        print(
            f"{depth} layers of {width}: {(recorded - bare) * 1e6:.0f} us more in a step of {bare * 1e6:.0f} us"
        )
        with_it.scope.detach()
        without.scope.detach()


if __name__ == "__main__":
    main()
