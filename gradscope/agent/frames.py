"""What the training process knows, as messages of the link."""

from collections.abc import Iterable, Sequence

import torch
from torch.nn.parameter import is_lazy

from gradscope.agent.measurement import FinishedStep
from gradscope.hooks import LayerInfo
from gradscope.intervene import Entry
from gradscope.protocol import (
    Interventions,
    InterventionState,
    Layer,
    Manifest,
    Parameter,
    Step,
    pack_block,
    pack_layers,
)

__all__ = ["interventions_message", "manifest_message", "state_of", "step_message"]


def manifest_message(
    run: str, rank: int, revision: int, model: str, layers: Sequence[LayerInfo]
) -> Manifest:
    """Return the manifest of a model's layers."""
    described = [_describe(layer) for layer in layers]
    devices = {str(p.device) for layer in layers for p in layer.parameters.values()}
    return Manifest(
        run=run,
        rank=rank,
        revision=revision,
        model=model,
        device=", ".join(sorted(devices)),
        layer_count=len(described),
        body=pack_layers(described),
    )


def step_message(run: str, rank: int, seq: int, dropped: int, finished: FinishedStep) -> Step:
    """Return the frame of an observed step."""
    columns, zero, body = pack_block(finished.block)
    return Step(
        run=run,
        rank=rank,
        seq=seq,
        step=finished.step,
        time_s=finished.time_s,
        manifest_revision=finished.revision,
        kinds=finished.block.kinds,
        rows=len(finished.block),
        columns=columns,
        zero=zero,
        step_time_s=finished.step_time_s,
        every=finished.every,
        cost=finished.cost,
        dropped=dropped,
        body=body,
    )


def interventions_message(
    run: str, rank: int, revision: int, step: int, entries: Iterable[Entry]
) -> Interventions:
    """Return all interventions of the run as they stand."""
    states = tuple(state_of(entry) for entry in entries)
    return Interventions(run=run, rank=rank, revision=revision, step=step, entries=states)


def state_of(entry: Entry) -> InterventionState:
    """Return one intervention as data."""
    return InterventionState(
        id=entry.id,
        action=entry.action.name,
        arguments=dict(entry.arguments),
        layers=entry.layers,
        site=entry.site,
        set_by=entry.set_by,
        active_since=entry.active_since,
        end=str(entry.end),
    )


def _describe(layer: LayerInfo) -> Layer:
    parameters = tuple(
        Parameter(name, _shape(p), str(p.dtype).removeprefix("torch."), p.requires_grad)
        for name, p in layer.parameters.items()
    )
    return Layer(layer.name, type(layer.module).__name__, parameters, layer.is_watched)


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """Return a parameter's shape; empty for a lazy one that has none yet."""
    return () if is_lazy(parameter) else tuple(parameter.shape)
