"""The snapshot: what a person or an assistant needs to judge one step of a run, in at most 4,000 tokens.

Of a model with many layers it has those of the findings and the extremes, and says what it leaves out.
"""

import bisect
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from gradscope.columns import KINDS, LayerRows, Stats, Table, merge_stats
from gradscope.findings import Finding, compact_json, plain_value
from gradscope.history.quantities import QUANTITIES
from gradscope.history.run_history import RunHistory
from gradscope.names import counted, match_names
from gradscope.protocol import Event, InterventionState

__all__ = [
    "COLUMNS",
    "SIZE_LIMIT",
    "TABLES",
    "VERSION",
    "layer_cells",
    "snapshot_as_json",
    "snapshot_lines",
]

VERSION = 1
"""The version of the JSON document. A key may be added within a version."""

SIZE_LIMIT = 16_000
"""Characters of the document without spaces, about 4,000 tokens."""

TABLES = 17
"""The observed steps that a snapshot needs: the one that it shows, and 16 before it to compare with."""

COLUMNS = (*QUANTITIES, "out_rms_change", "grad_norm_change")
"""The numbers of a layer; None: not measured.

out_rms, out_absmax: of the elements of its output. grad_norm: of the gradient at its output. param_norm,
param_grad_norm: of its own parameters and their gradient. update_ratio: |Δw| / |w|. nonfinite: elements
that are NaN or infinite, in all its tensors. *_change: the number divided by its median in the observed steps
before.
"""

_EXTREMES = (
    ("nonfinite", "most NaN or infinity", True),
    ("grad_norm_change", "grad_norm grew most", True),
    ("out_rms_change", "out_rms grew most", True),
    ("grad_norm", "largest grad_norm", True),
    ("grad_norm", "smallest grad_norm", False),
    ("update_ratio", "largest update_ratio", True),
    ("update_ratio", "smallest update_ratio", False),
    ("out_rms", "largest out_rms", True),
    ("out_rms", "smallest out_rms", False),
    ("grad_norm_change", "grad_norm shrank most", False),
    ("out_rms_change", "out_rms shrank most", False),
    ("out_absmax", "largest out_absmax", True),
    ("param_grad_norm", "largest param_grad_norm", True),
)
"""Quantity, reason, and whether the largest or the smallest values are meant."""

_COMPARED = ("out_rms", "grad_norm")
_FIRST_SCALARS = ("loss", "lr")
_ALL = 40
"""Up to this number of layers, all of them are shown."""

_OF_EXTREME = 2
_REASONS = 2
_FINDINGS = 8
_EXPLAINED = 3
"""The first findings, which have their cause and what to do."""

_LAYERS_OF_FINDING = 5
_EVENTS = 5
_SCALARS = 8
_POINTS = 10
_TEXT = 300
_DIGITS = 5
_NOTE = 200
"""Characters of what is left out, in words."""

_Numbers: TypeAlias = dict[str, float | None]


def snapshot_as_json(
    history: RunHistory, *, around: int | None = None, layers: Sequence[str] = ()
) -> dict[str, Any]:  # Any: what JSON takes
    """Return the snapshot of the last table of a history, at most SIZE_LIMIT characters long as JSON without spaces.

    around: the step that was asked for. layers: show the layers with these names or patterns, instead of a choice.
    Raises UnknownLayerError if a name or pattern matches no layer.
    """
    numbers = _numbers(history.tables)
    chosen = _named(numbers, layers) if layers else _chosen(numbers, history.verdict.every())
    document = _without_layers(history, numbers, around)
    _add_layers(document, chosen, history, numbers)
    return document


def snapshot_lines(document: Mapping[str, Any]) -> list[str]:  # Any: what JSON takes
    """Return a snapshot as text, in lines; the layers are `layer_cells`."""
    shown = "no step was observed" if document["step"] is None else f"step {document['step']}"
    reason = f": {document['reason']}" if document["reason"] else ""
    steps = counted(document["steps"], "step")
    lines = [
        f"{document['run']}, {document['state']}{reason}; {shown}, of {steps}",
        document["verdict"],
    ]
    for name, points in document["scalars"].items():
        lines.append(f"{name}: " + "  ".join(f"step {step} {value}" for step, value in points))
    for each in document["findings"]:
        lines.append(f"{each['severity']} {each['code']}: {each['message']}")
        lines += [f"  {key}: {each[key]}" for key in ("cause", "fix") if key in each]
    lines += [f"step {each['step']}: {each['text']}" for each in document["events"]]
    lines += [
        f"{each['id']} on {', '.join(each['layers'])} since step {each['active_since']}"
        for each in document["interventions"]
    ]
    return lines


def layer_cells(document: Mapping[str, Any]) -> list[tuple[str, ...]]:  # Any: what JSON takes
    """Return the layers of a snapshot as cells of text, a "·" for what was not measured."""
    return [tuple("·" if cell is None else str(cell) for cell in row) for row in document["layers"]]


def _without_layers(
    history: RunHistory, numbers: Mapping[str, _Numbers], around: int | None
) -> dict[str, Any]:  # Any: what JSON takes
    verdict, state = history.verdict, history.interventions
    entries = state.entries if state else ()
    shown = history.tables[-1].step if history.tables else None
    document: dict[str, Any] = plain_value(
        {
            "version": VERSION,
            "run": history.run,
            "state": history.state,
            "reason": _cut(history.reason),
            "model": history.model,
            "steps": history.steps,
            "step": shown,
            "asked_step": around,
            "compared_with_steps": [table.step for table in history.tables[:-1]],
            "verdict": _cut(verdict.headline),
            "checked": verdict.checked.text,
            "not_checked": [gap.what for gap in verdict.checked.not_checked[:_EVENTS]],
            "findings": [
                _finding(finding, place < _EXPLAINED)
                for place, finding in enumerate(verdict.every()[:_FINDINGS])
            ],
            "events": [_event(event) for event in _events(history.failures, around)],
            "scalars": _scalars(history.scalars, around),
            "interventions": [_intervention(entry) for entry in entries[:_FINDINGS]],
            "is_paused": state is not None and state.pause is not None,
            "ranges": _ranges(numbers),
            "columns": ["layer", "type", "reason", *COLUMNS],
            "layers": [],
        },
        _DIGITS,
    )
    document["left_out"] = {
        "findings": max(0, len(verdict.every()) - _FINDINGS),
        "scalars": max(0, len(history.scalars) - _SCALARS),
    }
    return document


def _add_layers(
    document: dict[str, Any],  # Any: what JSON takes
    chosen: Mapping[str, str],
    history: RunHistory,
    numbers: Mapping[str, _Numbers],
) -> None:
    """Add the chosen layers, by name with the reason, as far as there is space, and the number of the others."""
    types = {layer.name: layer.type for layer in history.layers}
    space = SIZE_LIMIT - len(compact_json(document)) - _NOTE
    rows: dict[str, list[Any]] = {}
    for layer, reason in chosen.items():
        values = [numbers[layer][name] for name in COLUMNS]
        row = plain_value([layer, types.get(layer, ""), reason, *values], _DIGITS)
        space -= len(compact_json(row)) + 1
        if space < 0:
            break
        rows[layer] = row
    document["layers"] = [rows[layer] for layer in numbers if layer in rows]
    left = len(numbers) - len(rows)
    document["left_out"]["layers"] = left
    if left:
        document["left_out"]["note"] = (
            f"{left} of {counted(len(numbers), 'layer')} are not shown: gradscope snapshot RUN --layers PATTERN "
            "shows the layers that you name"
        )


def _named(numbers: Mapping[str, _Numbers], patterns: Sequence[str]) -> dict[str, str]:
    return dict.fromkeys(match_names(patterns, list(numbers)), "")


def _chosen(numbers: Mapping[str, _Numbers], findings: Iterable[Finding]) -> dict[str, str]:
    """Return the layers to show, the most important first, each with the reasons."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        for layer in finding.layers[:_LAYERS_OF_FINDING]:
            reasons.setdefault(layer, []).append(finding.code)
    for quantity, reason, is_largest in _EXTREMES:
        known = [(value, layer) for layer, row in numbers.items() if _is_finite(value := row[quantity])]
        if quantity == "nonfinite":
            known = [(value, layer) for value, layer in known if value]
        known.sort(key=lambda pair: pair[0], reverse=is_largest)  # type: ignore[arg-type,return-value]  # no None
        for _, layer in known[:_OF_EXTREME]:
            reasons.setdefault(layer, []).append(reason)
    for layer in [*list(numbers)[:1], *list(numbers)[-1:]]:
        reasons.setdefault(layer, [])
    if len(numbers) <= _ALL:
        reasons |= {layer: [] for layer in numbers if layer not in reasons}
    return {
        layer: "; ".join(dict.fromkeys(found[:_REASONS]))
        for layer, found in reasons.items()
        if layer in numbers
    }


def _numbers(tables: Sequence[Table]) -> dict[str, _Numbers]:
    """Return the numbers of each layer in the last table."""
    if not tables:
        return {}
    past: dict[tuple[str, str], list[float]] = {}
    for table in tables[:-1]:
        for layer, rows in table.items():
            numbers = _numbers_of(rows)
            for name in _COMPARED:
                if _is_finite(value := numbers[name]):
                    past.setdefault((layer, name), []).append(value or 0.0)
    found = {layer: _numbers_of(rows) for layer, rows in tables[-1].items()}
    for layer, numbers in found.items():
        for name in _COMPARED:
            before = past.get((layer, name), [])
            usual, value = statistics.median(before) if before else 0.0, numbers[name]
            numbers[f"{name}_change"] = value / usual if usual and value is not None else None
    return found


def _numbers_of(rows: LayerRows) -> _Numbers:
    of_kind = {kind: _merged(rows, kind) for kind in KINDS}
    out, grad, param_grad = of_kind["out"], of_kind["grad"], of_kind["param_grad"]
    param, update = of_kind["param"], of_kind["update"]
    return {
        "out_rms": out.rms if out else None,
        "out_absmax": out.absmax if out else None,
        "grad_norm": grad.norm if grad else None,
        "param_norm": param.norm if param else None,
        "param_grad_norm": param_grad.norm if param_grad else None,
        "update_ratio": update.norm / param.norm if update and param and param.norm else None,
        "nonfinite": sum(stats.nonfinite for stats in of_kind.values() if stats),
    }


def _merged(rows: LayerRows, kind: str) -> Stats | None:
    """Return the statistics of a kind, over several tensors if there are several; None if not measured."""
    if kind in rows:
        parts = [rows[kind]]
    else:
        parts = [stats for name, stats in rows.items() if name.startswith(f"{kind}.")]
    known = [stats for stats in parts if stats.is_measured]
    return merge_stats(known) if known else None


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _ranges(numbers: Mapping[str, _Numbers]) -> dict[str, dict[str, float | int]]:
    """Return least, median and greatest value over all layers, and the number of layers that have one."""
    ranges: dict[str, dict[str, float | int]] = {}
    for name in COLUMNS:
        values = [
            value for row in numbers.values() if (value := row[name]) is not None and _is_finite(value)
        ]
        if values:
            ranges[name] = {
                "min": min(values),
                "median": statistics.median(values),
                "max": max(values),
                "layers": len(values),
            }
    return ranges


def _scalars(
    scalars: Mapping[str, Mapping[int, float]], around: int | None
) -> dict[str, list[tuple[int, float]]]:
    """Return points of each scalar, (step, value): evenly spaced up to the newest, or those next to `around`."""
    found = {}
    for name in sorted(scalars, key=lambda name: (name not in _FIRST_SCALARS, name))[:_SCALARS]:
        steps = sorted(scalars[name])
        if around is not None:
            place = bisect.bisect_left(steps, around)
            steps = steps[max(0, place - _POINTS // 2) : place + _POINTS // 2 + 1]
        count = min(_POINTS, len(steps) - 1)
        places = [round(i * (len(steps) - 1) / count) for i in range(count + 1)] if count > 0 else [0]
        found[name] = [(steps[place], scalars[name][steps[place]]) for place in places if steps]
    return found


def _finding(finding: Finding, is_explained: bool) -> dict[str, Any]:  # Any: what JSON takes
    found = {
        "code": finding.code,
        "severity": finding.severity,
        "message": _cut(finding.message),
        "layers": finding.layers[:_LAYERS_OF_FINDING],
        "layer_count": len(finding.layers),
        "since_step": finding.since_step,
        "found_step": finding.found_step,
    }
    return found | ({"cause": _cut(finding.cause), "fix": _cut(finding.fix)} if is_explained else {})


def _events(events: Sequence[Event], around: int | None) -> list[Event]:
    """Return the newest events, or those nearest to a step; in order."""
    last = max((event.step for event in events), default=0) if around is None else around
    return sorted(sorted(events, key=lambda e: abs(e.step - last))[:_EVENTS], key=lambda e: e.time_s)


def _event(event: Event) -> dict[str, Any]:  # Any: what JSON takes
    return {"step": event.step, "level": event.level, "code": event.code, "text": _cut(event.text)}


def _intervention(entry: InterventionState) -> dict[str, Any]:  # Any: what JSON takes
    return {
        "id": entry.id,
        "action": entry.action,
        "arguments": {**entry.arguments, **entry.choices},
        "layers": entry.layers[:_LAYERS_OF_FINDING],
        "layer_count": len(entry.layers),
        "site": entry.site,
        "active_since": entry.active_since,
        "end": entry.end,
        "set_by": _cut(entry.set_by),
    }


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
