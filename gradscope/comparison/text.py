"""A comparison as text and as plain data."""

import math
from typing import Any

from gradscope.comparison.causes import place_of
from gradscope.comparison.diff import Comparison, Divergence
from gradscope.names import counted
from gradscope.recording import PRECISION

__all__ = ["as_json", "as_lines"]

_VERSION = 1
_PASS_IN_WORDS = {
    "parameters": "parameters, before the optimizer steps",
    "input": "input of the model",
    "forward": "forward pass",
    "backward": "backward pass",
    "gradients": "gradients of parameters",
    "optimizer": "update by the optimizer",
}


def as_lines(comparison: Comparison) -> list[str]:
    """Return the comparison as lines for a terminal."""
    lines = [_headline(comparison)]
    if comparison.first is not None:
        lines += ["", *(f"  {name:<10}{text}" for name, text in _where(comparison.first))]
        lines += [
            f"  {'cause' if i == 0 else '':<10}{suspect.text}"
            for i, suspect in enumerate(comparison.suspects)
        ]
        lines += ["", "How the difference grows", *_growth_lines(comparison)]
    if comparison.notes:
        lines += ["", "What else differs", *(f"  {note.text}" for note in comparison.notes)]
    lines += ["", f"Compared: {_how(comparison)}."]
    return lines


def as_json(comparison: Comparison) -> dict[str, Any]:  # Any: what JSON takes
    """Return the comparison as plain data, version 1. An infinite number is None."""
    first = comparison.first
    return {
        "version": _VERSION,
        "runs": [comparison.run_a, comparison.run_b],
        "equal": first is None,
        "compared": {
            "steps": comparison.steps,
            "first_step": comparison.first_step,
            "last_step": comparison.last_step,
            "exact_steps": comparison.exact_steps,
            "rounded_steps": comparison.rounded_steps,
            "tolerance": comparison.tolerance,
        },
        "first_difference": None
        if first is None
        else {
            "step": first.step,
            "after_step": first.after_step,
            "pass": first.stage,
            "layer": first.layer,
            "kind": first.kind,
            "relative_difference": _finite(first.size),
            "is_rounded": first.is_rounded,
            "differing_rows": first.others + 1,
            "rows": first.rows,
        },
        "suspects": [{"code": each.code, "text": each.text} for each in comparison.suspects],
        "growth": [
            {"step": each.step, "relative_difference": _finite(each.size)} for each in comparison.growth
        ],
        "notes": [{"code": each.code, "text": each.text} for each in comparison.notes],
        "layers": {
            "only_a": list(comparison.layers.only_a),
            "only_b": list(comparison.layers.only_b),
            "changed": list(comparison.layers.changed),
            "renamed": [list(pair) for pair in comparison.layers.renamed],
        },
    }


def _headline(comparison: Comparison) -> str:
    a, b, first = comparison.run_a, comparison.run_b, comparison.first
    span = f"{counted(comparison.steps, 'observed step')} from {comparison.first_step} to {comparison.last_step}"
    if first is None:
        how = "bit for bit" if comparison.is_exact else "within the tolerance"
        return f"{a} and {b} are equal {how} in the {span}"
    place = place_of(first.layer, first.kind)
    return f"{a} and {b} differ from step {first.step} on: {_PASS_IN_WORDS[first.stage]}, `{place}`"


def _where(first: Divergence) -> list[tuple[str, str]]:
    before = (
        "nothing was compared before"
        if first.after_step is None
        else f"step {first.after_step} and all compared steps before are equal"
    )
    more = f", and {counted(first.others, 'other tensor')} of this pass" if first.others else ""
    return [
        ("step", f"{first.step} ({before})"),
        ("pass", _PASS_IN_WORDS[first.stage]),
        ("layer", place_of(first.layer, first.kind) + more),
        ("size", _size(first.size) + (", of rounded statistics" if first.is_rounded else "")),
    ]


def _size(size: float) -> str:
    if math.isinf(size):
        return "another number of elements, NaN or Inf"
    if size == 0:
        return "the bits differ, the statistics do not"
    return f"relative difference about {size:.1e}"


def _growth_lines(comparison: Comparison) -> list[str]:
    return [
        f"  step {each.step}: {_size(each.size) if each.size else 'none in the parameters yet'}"
        for each in comparison.growth
    ]


def _how(comparison: Comparison) -> str:
    how, rounded = _how_exactly(comparison), comparison.rounded_steps
    if not rounded:
        return how
    return f"{how}. Of {counted(rounded, 'step')} a recording has statistics rounded to {100 * PRECISION:.1g} %"


def _how_exactly(comparison: Comparison) -> str:
    steps = counted(comparison.steps, "step")
    if comparison.tolerance is not None:
        return f"{steps} by statistics, up to a relative difference of {comparison.tolerance:.1e}"
    if comparison.is_exact:
        return f"{steps} by digests of all tensors"
    rest = "statistics, up to the error of their reduction; attach(digest=True) compares bits"
    if comparison.exact_steps:
        return f"{comparison.exact_steps} of {steps} by digests, the others by {rest}"
    return f"{steps} by {rest}"


def _finite(size: float) -> float | None:
    return size if math.isfinite(size) else None
