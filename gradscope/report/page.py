"""The page of a report: HTML around the charts. Every text of the run is escaped, since its names are not ours."""
# ruff: noqa: RUF001 - the signs are meant

import math
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope._version import __version__
from gradscope.catalogue import INTERVENTIONS
from gradscope.columns import MemoryTable, TimesTable, bytes_in_words, seconds_in_words
from gradscope.findings import Finding
from gradscope.findings.text import SIGNS, evidence_text, page_command, when_text
from gradscope.names import counted
from gradscope.protocol import InterventionState
from gradscope.report.charts import Line, Mark, draw_heat_map, draw_layer, draw_lines
from gradscope.report.content import RunContent
from gradscope.report.html import (
    clock_text,
    duration_text,
    html_code,
    html_pairs,
    html_table,
    html_text,
    number_text,
    plain_text,
)
from gradscope.report.series import Curve

__all__ = ["page_of"]

_MARKS: Final = 12
_CURVES: Final = 9
_BESIDE: Final = 3
_MARKS_APART: Final = 0.015
"""Marks that are nearer than this share of the run have one sign."""

_TABLE_LAYERS: Final = 1_000
_TOP: Final = 12
_EVENTS: Final = 60
_NAMES: Final = 8

_HEAT_MAPS: Final = (
    ("grad_norm", "Gradient norm at the output of each layer"),
    ("out_rms", "Activation scale: root mean square of the output of each layer"),
    ("update_ratio", "Update ratio |Δw| / |w| of each layer"),
)
_OF_LAYER: Final = (
    ("grad_norm", "gradient norm at output"),
    ("out_rms", "activation rms"),
    ("param_norm", "weight norm"),
    ("update_ratio", "update ratio"),
)
_STATES: Final = {
    "live": "● live: this is the run so far",
    "ended": "■ ended",
    "died": "✖ died: it was killed together with the hub, so the reason is not known",
}


def page_of(content: RunContent) -> str:
    """Return the page as HTML that loads nothing."""
    marks = _marks(content)
    span = _span(content)
    parts = [
        *_head(content),
        *_verdict(content),
        *_lost(content),
        _navigation(),
        *_progress(content, marks, span),
        *_heat_maps(content, marks),
        *_layer_charts(content, marks, span),
        *_findings(content),
        *_interventions(content),
        *_events(content),
        *_resources(content, span),
        *_environment(content),
        *_layer_table(content),
        _foot(content),
    ]
    template = resources.files("gradscope.report").joinpath("page.html").read_text(encoding="utf-8")
    title = f"{content.history.run} · gradscope report"
    return string.Template(template).substitute(title=escape(plain_text(title)), body="\n".join(parts))


def _foot(content: RunContent) -> str:
    when, path = time.strftime("%Y-%m-%d %H:%M"), html_code(str(content.info.path))
    return (
        f"<footer>Made by gradscope {escape(__version__)} on {when} from the recording {path}. "
        "A number that was not measured is shown as ·.</footer>"
    )


def _head(content: RunContent) -> Iterator[str]:
    history, info, layers = content.history, content.info, content.layers
    yield f"<h1>{html_text(history.run)}</h1>"
    state = _STATES[history.state] + (f": {history.reason}" if history.reason else "")
    facts = [("", state), ("steps", f"{history.steps:,}")]
    if layers.recorded:
        facts.append(("observed", f"{layers.recorded:,}"))
    loss = next(iter(content.scalars.items()), None)
    if loss is not None:
        facts.append((f"last {loss[0]}", number_text(loss[1].last)))
    if content.speed is not None and len(content.speed.middle):
        facts.append(("steps/s", f"{number_text(float(np.median(content.speed.middle)))} (median)"))
    if info.started_s and info.ended_s:
        facts.append(("ran for", duration_text(info.ended_s - info.started_s)))
    facts += [
        ("model", history.model),
        ("device", content.device),
        ("layers", f"{len(layers.layers):,}"),
    ]
    shown = (
        f"<span>{html_text(name)} <b>{html_text(value)}</b></span>" for name, value in facts if value
    )
    yield f'<div class="facts">{"".join(shown)}</div>'


def _verdict(content: RunContent) -> Iterator[str]:
    verdict = content.history.verdict
    if not verdict.has_problem:
        yield '<section class="verdict healthy"><p class="head"><span class="sign">✔</span> '
        yield f"{html_text(verdict.headline)}</p></section>"
        return
    first, others = verdict.findings[0], verdict.findings[1:]
    yield f'<section class="verdict {first.severity}"><p class="head">{_title(first, 1)}</p>'
    yield _details(first, with_evidence=False)
    if others:
        shown = [
            f'<li class="{finding.severity}">{_title(finding, place)}</li>'
            for place, finding in enumerate(others[:3], 2)
        ]
        yield f'<p class="soft">Also found:</p><ul>{"".join(shown)}</ul>'
    if len(others) > 3:
        yield f'<p><a href="#findings">{counted(len(others) - 3, "more finding")}</a></p>'
    yield "</section>"


def _lost(content: RunContent) -> Iterator[str]:
    if content.lost:
        more = f" and {len(content.lost) - _TOP} more" if len(content.lost) > _TOP else ""
        what = "".join(f"<li>{html_text(each)}</li>" for each in content.lost[:_TOP])
        yield '<section class="verdict warning"><p class="head"><span class="sign">▲</span> '
        yield f"The recording is damaged; this is missing{more}:</p><ul>{what}</ul></section>"


def _navigation() -> str:
    places = (
        "progress",
        "heat maps",
        "layers",
        "findings",
        "memory and time",
        "environment",
        "all layers",
    )
    links = "".join(f'<a href="#{place.replace(" ", "-")}">{place}</a>' for place in places)
    return f'<nav aria-label="sections"><p>{links}</p></nav>'


def _progress(content: RunContent, marks: Sequence[Mark], span: tuple[int, int]) -> Iterator[str]:
    yield '<h2 id="progress">Progress</h2>'
    if marks:
        words = [
            "a number marks the step of that finding" if any(m.is_finding for m in marks) else "",
            "◆ the start of an intervention" if not all(m.is_finding for m in marks) else "",
        ]
        yield f'<p class="soft">In the charts, {html_text("; ".join(filter(None, words)))}.</p>'
    if not content.scalars:
        yield "<p>The script has logged no loss: <code>scope.log(loss=loss)</code> records it.</p>"
    shown, others = _told_apart(content.scalars)
    for name, curve in list(shown.items())[:1]:
        yield draw_lines(name, [Line(name, curve)], marks, span)
    small = list(shown.items())[1 : 1 + _CURVES]
    for start in range(0, len(small), _BESIDE):
        yield draw_layer("", {n: Line(n, c) for n, c in small[start : start + _BESIDE]}, marks, span)
    others += [f"{name} is not drawn" for name in list(shown)[1 + _CURVES :]]
    if others:
        more = f" and {len(others) - _TOP} more" if len(others) > _TOP else ""
        yield f'<p class="soft">{html_text("; ".join(others[:_TOP]))}{more}.</p>'
    if content.speed is not None and len(content.speed.steps) > 1:
        yield draw_lines(
            "steps per second", [Line("steps/s", content.speed)], marks, span, height_in=1.5
        )


def _told_apart(scalars: Mapping[str, Curve]) -> tuple[dict[str, Curve], list[str]]:
    """Return the curves that say something of their own, and a clause about each of the others."""
    shown: dict[str, Curve] = {}
    clauses = []
    for name, curve in scalars.items():
        same = next((other for other, drawn in shown.items() if _is_same(curve, drawn)), None)
        if same is not None:
            clauses.append(f"{name} is the same as {same}")
        elif shown and not curve.nonfinite and len(curve.low) and curve.low.min() == curve.high.max():
            clauses.append(f"{name} is always {number_text(curve.last)}")
        else:
            shown[name] = curve
    return shown, clauses


def _is_same(one: Curve, other: Curve) -> bool:
    return np.array_equal(one.steps, other.steps) and np.allclose(
        one.middle, other.middle, rtol=1e-6, atol=0.0
    )


def _heat_maps(content: RunContent, marks: Sequence[Mark]) -> Iterator[str]:
    series = content.layers
    yield '<h2 id="heat-maps">All layers over the run</h2>'
    if not series.first:
        found = "could be read" if content.lost else "was observed"
        yield f"<p>No step {found}, so nothing is known about the layers.</p>"
        return
    shared = max(1, math.ceil(series.observed / max(1, len(series.first))))
    yield (
        f'<p class="soft">{series.observed:,} observed steps'
        + (f" of {series.recorded:,} that are recorded" if series.observed < series.recorded else "")
        + (f"; {content.info.removed:,} older ones were removed" if content.info.removed else "")
        + (f"; a column is the median of {shared} of them" if shared > 1 else "")
        + ". The first layer of the model is at the top; the scale is logarithmic. Gaps: not measured.</p>"
    )
    for name, title in _HEAT_MAPS:
        values = series.values[name]
        rows = np.flatnonzero(~np.isnan(values).all(axis=0))
        if not len(rows):
            yield f'<p class="soft">{escape(title)}: not measured.</p>'
            continue
        names = [series.layers[place] for place in rows]
        yield draw_heat_map(
            title, names, series.first, series.last, values[:, rows], series.nonfinite[:, rows], marks
        )


def _layer_charts(content: RunContent, marks: Sequence[Mark], span: tuple[int, int]) -> Iterator[str]:
    series = content.layers
    if not content.chosen or not series.first:
        return
    yield '<h2 id="layers">Chosen layers</h2>'
    yield (
        '<p class="soft">Those of the findings, the extremes, the first and the last. '
        "<code>gradscope report RUN --layers PATTERN</code> draws others. "
        "× marks steps with NaN or infinity in a tensor of the layer.</p>"
    )
    for name in content.chosen:
        place = series.layers.index(name)
        parts = {
            title: Line(
                title,
                _layer_curve(
                    series.last, series.values[quantity][:, place], series.nonfinite[:, place]
                ),
            )
            for quantity, title in _OF_LAYER
            if not np.isnan(series.values[quantity][:, place]).all()
        }
        kind = content.types.get(name, "")
        yield f'<h3><code>{html_text(name or "(the model)")}</code> <span class="soft">{html_text(kind)}</span></h3>'
        yield draw_layer(name, parts, marks, span) if parts else "<p>Not measured.</p>"


def _layer_curve(
    steps: Sequence[int], values: NDArray[np.float64], nonfinite: NDArray[np.float64]
) -> Curve:
    known = ~np.isnan(values)
    at, kept = np.array(steps, np.int64), values[known]
    bad = tuple(at[nonfinite > 0].tolist())
    return Curve(at[known], kept, kept, kept, float(kept[-1]) if len(kept) else math.nan, bad)


def _findings(content: RunContent) -> Iterator[str]:
    verdict = content.history.verdict
    yield '<h2 id="findings">Findings</h2>'
    if not verdict.findings:
        yield f"<p>{html_text(verdict.headline)}</p>"
    for place, finding in enumerate(verdict.findings, 1):
        yield f'<div class="finding {finding.severity}"><p class="head">{_title(finding, place)}</p>'
        yield _details(finding, with_evidence=True)
        for other in verdict.consequences.get(place - 1, ()):
            yield f'<p class="soft">It explains: {_title(other, 0)}</p>'
        yield "</div>"
    yield f'<p class="soft">Checked {html_text(verdict.checked.text)}.</p>'
    if verdict.checked.not_checked:
        gaps = "".join(f"<li>{html_text(gap.text)}</li>" for gap in verdict.checked.not_checked)
        yield f'<p class="soft">Not checked:</p><ul class="soft">{gaps}</ul>'


def _title(finding: Finding, place: int) -> str:
    number = f"{place}. " if place else ""
    return (
        f'{number}<span class="sign">{SIGNS[finding.severity]} {finding.severity}</span> '
        f"{html_code(finding.code)} {html_text(finding.message)}"
    )


def _details(finding: Finding, *, with_evidence: bool) -> str:
    layers = [name or "the model" for name in finding.layers]
    shown = ", ".join(layers[:_NAMES]) + (
        f" and {len(layers) - _NAMES} more" if len(layers) > _NAMES else ""
    )
    pairs = [
        ("layers", shown if len(layers) > 1 else ""),
        ("line", finding.where),
        ("when", when_text(finding)),
        ("why", finding.cause),
        ("next", finding.fix),
    ]
    if with_evidence:
        seen = f"{evidence_text(finding.evidence)} ({finding.confidence})" if finding.evidence else ""
        pairs += [("seen", seen), ("page", page_command(finding))]
    return html_pairs(pairs)


def _interventions(content: RunContent) -> Iterator[str]:
    yield '<h2 id="interventions">Interventions</h2>'
    if not content.interventions:
        yield "<p>None: no viewer and no script changed this run through gradscope.</p>"
        return
    rows = [
        (
            _intervention_words(line.state),
            ", ".join(name or "the model" for name in line.state.layers[:_NAMES])
            + (
                f" and {len(line.state.layers) - _NAMES} more"
                if len(line.state.layers) > _NAMES
                else ""
            ),
            line.state.site,
            "never" if line.state.active_since is None else f"{line.state.active_since:,}",
            f"{line.removed_step:,}" if line.removed_step is not None else "the end of the recording",
            line.state.set_by,
        )
        for line in content.interventions
    ]
    yield html_table(("what", "layers", "at", "in force since step", "until step", "set by"), rows)
    changes = [event for event in content.history.events if event.change is not None]
    lines = [
        (
            f"{change.step:,}",
            clock_text(event.time_s),
            f"{change.what} {change.id}: {change.text}",
            change.by,
        )
        for event in changes[-_EVENTS:]
        if (change := event.change) is not None
    ]
    if lines:
        yield "<h3>Who changed what, and when</h3>"
        yield html_table(("step", "time", "change", "by"), lines, numeric=(0,))


def _intervention_words(state: InterventionState) -> str:
    words = {key: number_text(value) for key, value in state.arguments.items()} | state.choices
    try:
        return INTERVENTIONS[state.action].short.format(**words)
    except (KeyError, IndexError):  # the script's own, or of a newer version
        return " ".join([state.action, *(f"{key}={value}" for key, value in words.items())])


def _events(content: RunContent) -> Iterator[str]:
    events = content.history.failures
    if events:
        yield '<h2 id="events">Warnings and errors that are not findings</h2>'
        rows = [(f"{event.step:,}", event.level, event.text) for event in events[-_EVENTS:]]
        yield html_table(("step", "level", "what"), rows, numeric=(0,))


def _resources(content: RunContent, span: tuple[int, int]) -> Iterator[str]:
    yield '<h2 id="memory-and-time">Memory and time</h2>'
    memory, times = content.memory, content.times
    if memory is None and times is None:
        yield "<p>Not measured in this run.</p>"
    if memory is not None:
        yield from _memory(memory)
    if content.held_bytes is not None:
        held, mib = content.held_bytes, 2.0**20
        in_mib = Curve(held.steps, held.middle / mib, held.low / mib, held.high / mib, held.last / mib)
        lines = [Line("MiB", in_mib)]
        yield draw_lines("memory after the forward, in MiB", lines, (), span, height_in=1.5)
    if times is not None:
        yield from _times(times)
    notes = dict.fromkeys((*(memory.notes if memory else ()), *(times.notes if times else ())))
    yield from (f'<p class="soft">{html_text(note)}</p>' for note in notes)


def _memory(memory: MemoryTable) -> Iterator[str]:
    whose = "allocated on the device" if "device_allocated" in memory.machine else "resident"
    yield f"<h3>Memory after the forward of step {memory.step:,}, {whose}</h3>"
    parts = [(name, bytes_in_words(size)) for name, size in memory.balance.items()]
    yield html_table(("part", "size"), parts, numeric=(1,))
    saved = sorted(
        ((row.saved_bytes, name) for name, row in memory.items() if row.saved_bytes), reverse=True
    )
    if saved:
        layers = [(name or "(the model)", bytes_in_words(size)) for size, name in saved[:_TOP]]
        yield "<h3>Layers that keep most for the backward pass</h3>"
        yield html_table(("layer", "saved"), layers, numeric=(1,))


def _times(times: TimesTable) -> Iterator[str]:
    observed = ", an observed step, which takes longer" if times.is_observed else ""
    yield f"<h3>Time of step {times.step:,}, {escape(times.clock)} clock{observed}</h3>"
    parts = [(name, seconds_in_words(seconds)) for name, seconds in times.phases_s.items()]
    yield html_table(("part", "time"), parts, numeric=(1,))
    layers = [
        (name or "(the model)", row.forward_s, row.backward_s)
        for name, row in times.items()
        if row.forward_s is not None and row.backward_s is not None
    ]
    layers.sort(key=lambda layer: layer[1] + layer[2], reverse=True)
    if layers:
        yield "<h3>Slowest layers, without the layers inside them</h3>"
        cells = [(name, seconds_in_words(f), seconds_in_words(b)) for name, f, b in layers[:_TOP]]
        yield html_table(("layer", "forward", "backward"), cells, numeric=(1, 2))


def _environment(content: RunContent) -> Iterator[str]:
    yield '<h2 id="environment">Environment</h2>'
    yield html_pairs(content.environment)


def _layer_table(content: RunContent) -> Iterator[str]:
    series = content.layers
    if series.newest_step is None:
        return
    yield '<h2 id="all-layers">All layers</h2>'
    yield f'<p class="soft">In step {series.newest_step:,}, the newest observed one that was read.</p>'
    names = ("grad_norm", "param_grad_norm", "out_rms", "param_norm", "update_ratio", "nonfinite")
    rows = []
    for place, name in enumerate(series.layers[:_TABLE_LAYERS]):
        numbers = [float(series.newest[each][place]) for each in names]
        if not all(map(math.isnan, numbers)):
            cells = ["·" if math.isnan(number) else number_text(number) for number in numbers]
            rows.append((name or "(the model)", content.types.get(name, ""), *cells))
    titles = ("layer", "type", "‖∇out‖", "‖∇w‖", "out rms", "‖w‖", "|Δw|/|w|", "NaN or Inf")
    yield html_table(titles, rows, numeric=tuple(range(2, 8)))
    if len(series.layers) > _TABLE_LAYERS:
        yield f'<p class="soft">{len(series.layers) - _TABLE_LAYERS:,} more layers are not listed.</p>'


def _marks(content: RunContent) -> list[Mark]:
    """Return the steps of findings, by number, and of interventions. Near ones are one mark with several numbers."""
    first, last = _span(content)
    found = []
    for place, finding in enumerate(content.history.verdict.findings[:_MARKS], 1):
        step = finding.found_step if finding.since_step is None else finding.since_step
        if step is not None and finding.severity != "hint":
            found.append((step, str(place)))
    marks: list[Mark] = []
    for step, sign in sorted(found):
        if marks and step - marks[-1].step <= _MARKS_APART * (last - first):
            marks[-1] = Mark(marks[-1].step, f"{marks[-1].sign},{sign}")
        else:
            marks.append(Mark(step, sign))
    starts = [line.state.active_since for line in content.interventions]
    return [*marks, *(Mark(step, "◆") for step in starts[:_MARKS] if step is not None)]


def _span(content: RunContent) -> tuple[int, int]:
    info = content.info
    first, last = info.first_step or 0, info.last_step or 0
    return first, max(last, first + 1)
