"""Checks of outputs: another number format or number of dimensions than when the run began."""

from collections.abc import Sequence

from gradscope.findings.codes import finding
from gradscope.findings.facts import LayerFacts, WiringFacts
from gradscope.findings.finding import Finding

__all__ = ["dtype_changed", "shape_changed"]

_ENOUGH = 3


def dtype_changed(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find layers whose output has another number format than when the run began."""
    changed = _changed(history, "dtype")
    if not changed:
        return []
    now, before = changed[0].form, changed[0].first_form
    text = f"is {now and now.dtype} and was {before and before.dtype}"
    return [_change("dtype-changed", history, changed, text)]


def shape_changed(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find layers whose output has another number of dimensions than when the run began.

    Lengths may change: batches, sequences and images of several sizes are normal.
    """
    changed = _changed(history, "rank")
    if not changed:
        return []
    now, before = changed[0].form, changed[0].first_form
    text = f"has {now and now.rank} dimensions and had {before and before.rank}"
    return [_change("shape-changed", history, changed, text)]


def _changed(history: Sequence[WiringFacts], field: str) -> list[LayerFacts]:
    """Return the innermost layers whose output form differs from that at the beginning, in each step."""
    if len(history) < _ENOUGH:
        return []
    names = set.intersection(
        *({layer.name for layer in facts.layers if _is_changed(layer, field)} for facts in history)
    )
    return [
        layer
        for layer in history[-1].layers
        if layer.name in names and not any(_is_inside(each, layer.name) for each in names)
    ]


def _is_inside(name: str, outer: str) -> bool:
    """Return whether a module is inside of another one."""
    return name != outer and name.startswith(f"{outer}." if outer else "")


def _is_changed(layer: LayerFacts, field: str) -> bool:
    now, first = layer.form, layer.first_form
    return now is not None and first is not None and getattr(now, field) != getattr(first, field)


def _change(
    code: str, history: Sequence[WiringFacts], changed: Sequence[LayerFacts], text: str
) -> Finding:
    names = tuple(layer.name for layer in changed)
    others = f", and those of {len(names) - 1} more layers changed too" if len(names) > 1 else ""
    return finding(
        code,
        f"the output of `{names[0]}` {text} when the run began{others}",
        step=history[-1].step,
        layers=names,
        confidence="measured",
        evidence={"layers": float(len(names))},
    )
