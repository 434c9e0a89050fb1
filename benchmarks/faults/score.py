"""What gradscope finds in the set: python -m benchmarks.faults.score [--only WORDS] [--kind KIND] [--json].

Runs each sick program, its repaired twin and each sound program with gradscope's defaults, each in a process
of its own, and prints what was found, in which step, and every false alarm. Exit code 1 if a fault is
not detected or an alarm is false.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import gradscope
from benchmarks.faults.program import Sick, seed, train_step, watch
from benchmarks.faults.sick import SICK
from benchmarks.faults.sound import SOUND
from gradscope.findings import Finding

__all__ = ["Job", "Outcome", "Result", "jobs", "result_of", "run_job"]

Kind = Literal["sick", "twin", "sound"]

_LONGEST_S = 300.0
"""A program that takes longer has failed. The longest takes 5 s on an idle core."""


@dataclass(frozen=True, slots=True)
class Job:
    """One program to run: its kind, and its position in SICK or SOUND."""

    kind: Kind
    position: int
    steps: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave. skipped: why it did not run. error: if it or gradscope failed."""

    findings: tuple[Finding, ...] = ()
    skipped: str = ""
    error: str = ""

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The errors and warnings."""
        return tuple(each for each in self.findings if each.severity != "hint")


@dataclass(frozen=True, slots=True)
class Result:
    """How one program was judged. A hint counts as detected only if its code is right.

    step: in which a finding with the right code was found. messages: the finding, or the false alarms.
    """

    kind: Kind
    name: str
    expected: str = ""
    is_detected: bool = False
    is_right_code: bool = False
    is_right_layer: bool = False
    is_hint: bool = False
    step: int | None = None
    messages: tuple[str, ...] = ()
    skipped: str = ""
    error: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the fault was found with its layer, or a sound program is without alarm."""
        return not self.error and (self.is_right_layer if self.kind == "sick" else not self.messages)


def jobs(words: str, steps: int) -> list[Job]:
    """Return the programs whose names contain the words: the sick with their twins, then the sound."""
    chosen = [number for number, sick in enumerate(SICK) if words in sick.name]
    faults = [Job(kind, number, steps) for number in chosen for kind in ("sick", "twin")]
    return faults + [
        Job("sound", number, steps) for number, each in enumerate(SOUND) if words in each.name
    ]


def run_job(job: Job) -> Outcome:
    """Train one program under gradscope in this process."""
    seed()
    try:
        if job.kind == "sound":
            parts = SOUND[job.position].make()
        else:
            parts = SICK[job.position].make(job.kind == "sick")
        return Outcome(watch(parts, job.steps))
    except ModuleNotFoundError as error:
        return Outcome(skipped=f"{error.name} is not installed")
    except Exception as error:  # noqa: BLE001 - the other programs run all the same
        return Outcome(error=f"{type(error).__name__}: {error}")


def result_of(job: Job, outcome: Outcome) -> Result:
    """Judge what was found in a program."""
    if job.kind != "sick":
        name = SOUND[job.position].name if job.kind == "sound" else f"twin of {SICK[job.position].name}"
        messages = tuple(_text(each) for each in outcome.alarms)
        return Result(job.kind, name, messages=messages, skipped=outcome.skipped, error=outcome.error)
    sick = SICK[job.position]
    right = [each for each in outcome.findings if each.code in sick.codes]
    in_place = [each for each in right if _is_in(each.layers, sick)]
    found = next(iter(in_place or right), None)
    shown = outcome.alarms if found is None else (found,)
    return Result(
        "sick",
        sick.name,
        expected=" ".join([*sorted(sick.codes), "at", *sorted(sick.layers or {"any layer"})]),
        is_detected=bool(outcome.alarms) or found is not None,
        is_right_code=found is not None,
        is_right_layer=bool(in_place),
        is_hint=found is not None and found.severity == "hint",
        step=None if found is None else found.found_step,
        messages=tuple(_text(each) for each in shown),
        skipped=outcome.skipped,
        error=outcome.error,
    )


def _is_in(layers: Sequence[str], sick: Sick) -> bool:
    """Return whether the first layer is right. A finding without a layer is about the model itself, ""."""
    return not sick.layers or next(iter(layers), "") in sick.layers


def _text(finding: Finding) -> str:
    return f"{finding.severity} {finding.code} in step {finding.found_step}: {finding.message}"


def _results(chosen: Sequence[Job]) -> Iterator[Result]:
    """Run each program in a process of its own, one after the other: a copy of this one where the system can fork."""
    seed()
    train_step(SICK[0].make(False), 0)  # what PyTorch imports in the first step is imported once
    assert gradscope.attach  # the same for gradscope
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        for job in chosen:
            try:
                outcome = pool.apply_async(run_job, (job,)).get(_LONGEST_S)
            except multiprocessing.TimeoutError:
                yield result_of(job, Outcome(error=f"not done after {_LONGEST_S:g} s"))
                return
            yield result_of(job, outcome)


def summary(results: Sequence[Result], steps: int) -> dict[str, float]:
    """Return the score."""
    ran = [each for each in results if not each.skipped]
    sick = [each for each in ran if each.kind == "sick"]
    twins, sound = ([each for each in ran if each.kind == kind] for kind in ("twin", "sound"))
    found = [each.step for each in sick if each.step is not None]
    return {
        "steps": steps,
        "sick": len(sick),
        "detected": sum(each.is_detected for each in sick),
        "right_code": sum(each.is_right_code for each in sick),
        "right_layer": sum(each.is_right_layer for each in sick),
        "as_hints": sum(each.is_hint for each in sick),
        "median_step": statistics.median(found) if found else -1,
        "twins": len(twins),
        "twins_with_alarm": sum(bool(each.messages) for each in twins),
        "sound": len(sound),
        "sound_with_alarm": sum(bool(each.messages) for each in sound),
        "failed": sum(bool(each.error) for each in results),
        "skipped": len(results) - len(ran),
    }


def _line(result: Result) -> str:
    if result.skipped or result.error:
        return f"{'skipped' if result.skipped else 'FAILED'}  {result.name}: {result.skipped or result.error}"
    if result.kind == "sick":
        head = (
            "ok"
            if result.is_right_layer
            else "layer"
            if result.is_right_code
            else "code"
            if result.is_detected
            else "missed"
        )
        missing = "" if result.is_right_layer else f" [expected {result.expected}]"
        return f"{head:6}  {result.name}{missing}: {'; '.join(result.messages) or 'nothing'}"
    return " ".join([f"{'FALSE' if result.messages else 'ok':7}", f"{result.name}:", *result.messages])


def main() -> int:
    """Run the set and print the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", default="", help="programs whose name contains these words")
    parser.add_argument("--kind", default="", choices=get_args(Kind), help="only these programs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results, began = [], time.monotonic()
    chosen = [job for job in jobs(options.only, options.steps) if options.kind in ("", job.kind)]
    for result in _results(chosen):
        results.append(result)
        shown = f"[{len(results)}/{len(chosen)}] {_line(result)}"
        print(shown, file=sys.stderr if options.json else sys.stdout, flush=True)
    score = summary(results, options.steps)
    if options.json:
        print(
            json.dumps({"version": 1, "score": score, "programs": [asdict(each) for each in results]})
        )
    else:
        print(
            f"{score['sick']} faults in {options.steps} steps: {score['detected']} detected, {score['right_code']} "
            f"with the right code, {score['right_layer']} with the right layer ({score['as_hints']} as hints), found "
            f"in step {score['median_step']:g} (median); alarms in {score['twins_with_alarm']} of {score['twins']} "
            f"repaired twins and in {score['sound_with_alarm']} of {score['sound']} sound programs; "
            f"{score['failed']} failed, {score['skipped']} skipped; {time.monotonic() - began:.0f} s"
        )
    return int(not all(each.is_good for each in results if not each.skipped))


if __name__ == "__main__":
    sys.exit(main())
