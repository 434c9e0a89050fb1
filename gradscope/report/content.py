"""`RunContent`: everything that a report shows of a run, read from its recording."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gradscope.columns import MemoryTable, TimesTable
from gradscope.errors import ProtocolError, UsageError
from gradscope.history import RunHistory, read_history
from gradscope.names import match_names
from gradscope.protocol import Interventions, InterventionState, Memory, Times, unpack_layers
from gradscope.protocol.bodies import unpack_memory, unpack_times
from gradscope.recording import Recording, RecordingInfo
from gradscope.report.series import Curve, LayerSeries, curve_of, read_layers, read_scalars

__all__ = ["InterventionLine", "RunContent", "read_content"]

_CHOSEN: Final = 12
"""Layers that have charts of their own."""

_OF_FINDING: Final = 3


@dataclass(frozen=True, slots=True)
class InterventionLine:
    """One intervention, and the last step in which it is known to have been in force; None if it was never removed."""

    state: InterventionState
    removed_step: int | None


@dataclass(slots=True)
class RunContent:
    """The content of a report. A part that was not recorded is empty or None."""

    history: RunHistory
    info: RecordingInfo
    device: str = ""
    scalars: dict[str, Curve] = field(default_factory=dict)
    speed: Curve | None = None
    layers: LayerSeries = field(default_factory=lambda: LayerSeries(()))
    types: dict[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    interventions: tuple[InterventionLine, ...] = ()
    memory: MemoryTable | None = None
    times: TimesTable | None = None
    held_bytes: Curve | None = None
    environment: tuple[tuple[str, str], ...] = ()
    lost: tuple[str, ...] = ()
    """What could not be read, because the recording is damaged."""


def read_content(recording: Recording, run: str, layers: Sequence[str]) -> RunContent:
    """Read a run for its report. layers: patterns of the layers with charts of their own; by default a choice.

    Raises UnknownLayerError if a pattern matches nothing, and RecordingError if the recording is damaged.
    """
    info = recording.info
    content = RunContent(read_history(run), info)
    manifest = recording.manifest()
    if manifest is not None:
        content.device = manifest.device
        content.types = {layer.name: layer.type for layer in unpack_layers(manifest)}
    content.scalars, content.speed = read_scalars(recording.scalars())
    content.layers = read_layers(recording, steps=info.steps)
    content.chosen = _chosen(content, layers)
    content.interventions = _interventions(recording.interventions())
    _read_resources(recording, content)
    content.environment = _environment(recording, content)
    content.lost = tuple(recording.lost)
    return content


def _chosen(content: RunContent, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the layers with charts: the ones that were named, else those of findings and the extremes."""
    names = content.layers.layers
    if patterns:
        return tuple(match_names(patterns, names))
    wanted = [
        layer for finding in content.history.verdict.every() for layer in finding.layers[:_OF_FINDING]
    ]
    for quantity in ("grad_norm", "update_ratio", "out_rms"):
        newest = content.layers.newest.get(quantity)
        if newest is not None and not np.isnan(newest).all():
            wanted += [names[int(np.nanargmax(newest))], names[int(np.nanargmin(newest))]]
    measured = [name for place, name in enumerate(names) if _is_measured(content.layers, place)]
    wanted += [*measured[:1], *measured[-1:]]
    kept = [name for name in dict.fromkeys(wanted) if name in measured][:_CHOSEN]
    return tuple(name for name in names if name in kept)


def _is_measured(series: LayerSeries, place: int) -> bool:
    return any(not np.isnan(values[:, place]).all() for values in series.values.values() if len(values))


def _interventions(messages: object) -> tuple[InterventionLine, ...]:
    """Return each intervention once, in the order in which they began."""
    seen: dict[str, InterventionState] = {}
    removed: dict[str, int] = {}
    for message in messages:  # type: ignore[attr-defined]  # an iterator of Interventions
        if not isinstance(message, Interventions) or message.rank:
            continue
        now = {state.id: state for state in message.entries}
        for identity in seen.keys() - now.keys() - removed.keys():
            removed[identity] = message.step
        seen |= now
    return tuple(InterventionLine(state, removed.get(identity)) for identity, state in seen.items())


def _read_resources(recording: Recording, content: RunContent) -> None:
    names = {each.revision: each for each in recording.manifests() if not each.rank}
    held: dict[int, float] = {}
    newest_memory: Memory | None = None
    newest_times: Times | None = None
    for reading in recording.memory():
        if not reading.rank:
            newest_memory = reading
            if "total" in reading.balance:
                held[reading.step] = float(reading.balance["total"])
    for timing in recording.times():
        if not timing.rank:
            newest_times = timing
    if len(held) > 1:
        content.held_bytes = curve_of(list(held), list(held.values()))
    try:
        if newest_memory is not None and newest_memory.manifest_revision in names:
            layers = [each.name for each in unpack_layers(names[newest_memory.manifest_revision])]
            content.memory = unpack_memory(newest_memory, layers)
        if newest_times is not None and newest_times.manifest_revision in names:
            layers = [each.name for each in unpack_layers(names[newest_times.manifest_revision])]
            content.times = unpack_times(newest_times, layers)
    except (ProtocolError, UsageError):
        return  # of a faulty agent or of columns of another version: shown as not measured


def _environment(recording: Recording, content: RunContent) -> tuple[tuple[str, str], ...]:
    """Return what is known about where the run ran, as pairs of a name and a text."""
    info = content.info
    started = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.started_s)) if info.started_s else ""
    )
    ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.ended_s)) if info.ended_s else ""
    pairs = [
        ("script", info.script),
        ("host", info.host),
        ("process", str(info.pid) if info.pid else ""),
        ("started", started),
        ("ended", ended),
        ("model", content.history.model),
        ("device", content.device),
        ("recording", str(info.path)),
    ]
    found = recording.environment()
    git = found.pop("git", None)
    pairs += [(name, _in_words(value)) for name, value in found.items() if name not in dict(pairs)]
    if git:
        pairs.append(("git commit", _git_in_words(git)))
    return tuple((name, text) for name, text in pairs if text)


def _git_in_words(git: Mapping[str, Any]) -> str:  # Any: what JSON takes
    if not git["commit"]:
        return "not known"
    of_tree = {
        None: "; whether files were changed is not known",
        True: ", with changed files",
        False: "",
    }
    return f"{git['commit']}{of_tree[git['is_dirty']]}"


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
