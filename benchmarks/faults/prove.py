"""Whether each sick program has its fault: python -m benchmarks.faults.prove [--steps N] [--only WORDS]."""

import argparse
import sys

from benchmarks.faults.program import Sick, seed
from benchmarks.faults.sick import SICK

__all__ = ["prove"]


def prove(sick: Sick, steps: int) -> tuple[float, float]:
    """Return what the proof measures in the sick program and in its twin, without gradscope."""
    values = []
    for is_sick in (True, False):
        seed()
        values.append(sick.proof.measure(sick.make(is_sick), steps))
    return values[0], values[1]


def main() -> int:
    """Prove all faults. Return 1 if a proof fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", default="", help="programs whose name contains these words")
    options = parser.parse_args()
    failed = 0
    for sick in (each for each in SICK if options.only in each.name):
        try:
            of_sick, of_twin = prove(sick, options.steps)
            holds, shown = (
                sick.proof.holds(of_sick, of_twin),
                f"{of_sick:.3g}, in the twin {of_twin:.3g}",
            )
        except Exception as error:  # noqa: BLE001 - the others are proved all the same
            holds, shown = False, f"{type(error).__name__}: {error}"
        failed += not holds
        print(f"{'ok' if holds else '--'}  {sick.name}: {sick.proof.what} {shown}", flush=True)
    print(f"{failed} proofs failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
