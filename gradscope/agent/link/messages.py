"""Builds the messages of the training process: manifest, steps, interventions."""

import math
import sys
from collections.abc import Sequence

import torch
from torch.nn.parameter import is_lazy

from gradscope.catalogue import Argument
from gradscope.hooks import LayerInfo
from gradscope.intervene import Action, LedgerEntry, all_actions
from gradscope.observe import device_pass_name, native_module, pass_name
from gradscope.protocol import (
    ActionInfo,
    ArgumentInfo,
    InterventionState,
    Layer,
    Manifest,
    Parameter,
    Schedule,
    pack_layers,
)
from gradscope.protocol.bodies import PackBins

__all__ = [
    "actions_now",
    "bins_packer",
    "manifest_message",
    "state_of",
]


def manifest_message(
    run: str, rank: int, revision: int, model: str, layers: Sequence[LayerInfo]
) -> Manifest:
    """Return the manifest: the layers of a model, and the available interventions."""
    described = [_describe(layer) for layer in layers]
    devices = {str(p.device) for layer in layers for p in layer.parameters.values()}
    return Manifest(
        run=run,
        rank=rank,
        revision=revision,
        model=model,
        device=", ".join(sorted(devices)),
        measured_by=device_pass_name() if any(d.startswith("cuda") for d in devices) else pass_name(),
        layer_count=len(described),
        actions=actions_now(),
        body=pack_layers(described),
    )


def actions_now() -> tuple[ActionInfo, ...]:
    """Return the interventions of gradscope and of the script as messages for viewers."""
    return tuple(_action_info(action) for action in all_actions())


def bins_packer() -> PackBins | None:
    """Return the C function that packs histograms without the GIL; None if it was not built."""
    native = native_module()
    return None if native is None or sys.byteorder != "little" else native.pack_bins


def state_of(entry: LedgerEntry) -> InterventionState:
    """Return a ledger entry as it is sent to viewers."""
    request = entry.request
    return InterventionState(
        id=entry.id,
        action=request.action.spec.name,
        arguments={n: float(v) for n, v in request.arguments.items() if not isinstance(v, str)},
        layers=request.layers,
        site=request.site,
        set_by=request.set_by,
        active_since=entry.active_since,
        end=str(request.end),
        choices={n: v for n, v in request.arguments.items() if isinstance(v, str)},
        schedule=None if request.schedule == Schedule() else request.schedule,
    )


def _action_info(action: Action) -> ActionInfo:
    spec = action.spec
    arguments = tuple(_argument_info(argument) for argument in spec.arguments)
    return ActionInfo(spec.name, spec.help, spec.what, spec.sites, arguments, is_own=action.is_own)


def _argument_info(argument: Argument) -> ArgumentInfo:
    default = argument.default
    return ArgumentInfo(
        argument.name,
        argument.help,
        argument.kind,
        default=None if default is None or isinstance(default, str) else float(default),
        lowest=argument.lowest if math.isfinite(argument.lowest) else None,
        highest=argument.highest if math.isfinite(argument.highest) else None,
        chosen=default if isinstance(default, str) else "",
        options=argument.options,
    )


def _describe(layer: LayerInfo) -> Layer:
    parameters = tuple(
        Parameter(name, _shape(p), str(p.dtype).removeprefix("torch."), p.requires_grad)
        for name, p in layer.parameters.items()
    )
    return Layer(layer.name, type(layer.module).__name__, parameters, layer.is_watched)


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of a parameter; empty for a lazy parameter without a shape."""
    return () if is_lazy(parameter) else tuple(parameter.shape)
