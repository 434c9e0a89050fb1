"""What gradscope finds in the set: python -m benchmarks.faults.score [--steps N] [--only WORDS].

Runs each sick program, its repaired twin, and each sound program with gradscope's defaults, and prints
how many faults were found, with the right code and layer, in which step, and every false alarm.
"""

import argparse
import statistics
import warnings

from benchmarks.faults.program import Parts, Sick, run, seeded
from benchmarks.faults.sick import SICK
from benchmarks.faults.sound import SOUND
from gradscope.findings import Finding

__all__ = ["alarms_in", "found_in"]


def found_in(sick: Sick, steps: int) -> tuple[Finding | None, tuple[Finding, ...]]:
    """Return the first finding with a right code, and all errors and warnings."""
    seeded()
    findings = run(sick.make(True), steps)
    return next((each for each in findings if each.code in sick.codes), None), _alarms(findings)


def alarms_in(parts: Parts, steps: int) -> tuple[Finding, ...]:
    """Return the errors and warnings in a program without a fault."""
    return _alarms(run(parts, steps))


def _alarms(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(each for each in findings if each.severity != "hint")


def _is_in(layers: tuple[str, ...], expected: frozenset[str]) -> bool:
    return not expected or (bool(layers) and layers[0] in expected)


def main() -> None:
    """Run the set and print the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", default="", help="programs whose name contains these words")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # PyTorch warns about some of the faults
    chosen = [sick for sick in SICK if options.only in sick.name]
    detected = right_code = right_layer = 0
    found_steps: list[int] = []
    false: list[str] = []
    for sick in chosen:
        finding, alarms = found_in(sick, options.steps)
        detected += bool(alarms)
        right_code += finding is not None
        is_there = finding is not None and _is_in(finding.layers, sick.layers)
        right_layer += is_there
        if finding is not None:
            found_steps.append(finding.found_step)
        shown = "not found" if finding is None else f"step {finding.found_step}: {finding.message}"
        print(f"{'ok ' if is_there else '-- '} {sick.name}: {shown}", flush=True)
        seeded()
        false += [
            f"twin of {sick.name}: {each.message}"
            for each in alarms_in(sick.make(False), options.steps)
        ]
    sound = [program for program in SOUND if options.only in program.name]
    for program in sound:
        seeded()
        false += [
            f"{program.name}: {each.message}" for each in alarms_in(program.make(), options.steps)
        ]
    for line in false:
        print(f"false alarm in {line}")
    programs = len({line.partition(": ")[0] for line in false})
    print(
        f"{len(chosen)} faults in {options.steps} steps: {detected} detected, {right_code} with the right "
        f"code, {right_layer} with the right layer, found in step "
        f"{statistics.median(found_steps) if found_steps else '-'} (median); false alarms in {programs} of "
        f"{len(chosen) + len(sound)} sound programs"
    )


if __name__ == "__main__":
    main()
