"""The commands that install and remove interventions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from torch import nn

from gradscope.agent.commands.queue import Boundary, Prepared
from gradscope.agent.interventions.apply_parameters import parameters_below
from gradscope.agent.observation.model_tracker import ModelTracker
from gradscope.catalogue import check_arguments, check_site
from gradscope.errors import UsageError
from gradscope.hooks import is_sharded
from gradscope.intervene import (
    Action,
    End,
    InterventionRequest,
    Ledger,
    Schedule,
    check_schedule,
    find_action,
)
from gradscope.names import match_names
from gradscope.protocol import Command

__all__ = ["Modules", "check_request", "intervention_commands"]

Modules: TypeAlias = Mapping[str, nn.Module]


def check_request(
    modules: Modules,
    intervention: str | Action,
    arguments: Mapping[str, object],
    layers: object,
    *,
    site: str,
    set_by: str,
    end: End,
    schedule: Schedule | None = None,
    origin: str = "",
) -> InterventionRequest:
    """Return a checked request. Changes nothing. Raises UsageError if any argument is invalid."""
    action = find_action(intervention) if isinstance(intervention, str) else intervention
    spec = action.spec
    checked = check_arguments(spec.name, spec.arguments, arguments)
    chosen = tuple(match_names(layers, list(modules)))
    check_site(spec, site, checked)
    plan = check_schedule(
        schedule or Schedule(), spec.name, spec.arguments, may_have_condition=spec.what != "passage"
    )
    request = InterventionRequest(action, checked, chosen, site, set_by, end, plan, origin)
    _check_layers(request, modules)
    return request


def _check_layers(request: InterventionRequest, modules: Modules) -> None:
    """Raise UsageError if the intervention is not possible on these layers."""
    name = request.action.spec.name
    if request.site == "params":
        below = parameters_below(modules, request.layers)
        parameters = [p for own in below.values() for p in own]
        if not any(p.requires_grad for p in parameters):
            raise UsageError(
                f"{name} with site='params': {', '.join(request.layers)} has no trainable parameters; "
                "choose other layers or site='output'"
            )
        if any(is_sharded(p) for p in parameters):
            _check_sharded(request, parameters)
    if request.site == "input" or request.action.spec.what == "passage":
        writing = [layer for layer in request.layers if _writes_in_place(modules[layer])]
        if writing:
            raise UsageError(
                f"{name} with site={request.site!r}: {', '.join(writing)} writes into its input in place, so "
                "the input cannot be copied; use site='output', or the layer before, or make the module "
                "with inplace=False"
            )


def _writes_in_place(module: nn.Module) -> bool:
    """Return whether a module, or the first module of a Sequential, overwrites its input."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[0]
    return bool(getattr(module, "inplace", False))


def _check_sharded(request: InterventionRequest, parameters: list[nn.Parameter]) -> None:
    """Raise UsageError if the intervention needs a whole gradient, and each rank holds a shard."""
    name = request.action.spec.name
    spec = request.action.spec
    if spec.needs_whole or request.schedule.condition or request.arguments.get("relative"):
        raise UsageError(
            f"{name} with site='params' needs whole gradients, and each rank holds a shard of them; "
            "scale, clamp and reverse work on shards, and torch.nn.utils.clip_grad_norm_ in the script clips "
            "their norm"
        )
    placements = [place for p in parameters for place in getattr(p, "placements", ())]
    if spec.is_random and any(place.is_replicate() for place in placements):
        raise UsageError(
            f"{name} with site='params' differs between ranks, so the replicas of a sharded parameter would "
            "diverge; use site='output'"
        )


def intervention_commands(
    ledger: Ledger, tracker: ModelTracker
) -> dict[str, Callable[[Command], Prepared]]:
    """Return a dict from each action to the function that prepares its commands."""
    return {
        "install": partial(_prepare_install, ledger, tracker),
        "remove": partial(_prepare_remove, ledger),
        "remove_all": partial(_prepare_remove_all, ledger),
    }


def _prepare_install(ledger: Ledger, tracker: ModelTracker, command: Command) -> Prepared:
    request = check_request(
        tracker.modules(),
        command.intervention,
        {**command.arguments, **command.choices},
        command.layers,
        site=command.site,
        set_by=command.set_by or command.peer,
        end=_end_of(command),
        schedule=command.schedule,
        origin=f"viewer {command.peer[:8]}",
    )

    def apply(boundary: Boundary) -> None:
        ledger.install(
            request,
            lambda entry, step: boundary.done(entry.active_since or step, entry.id, entry.layers),
            boundary.label,
        )

    return apply


def _prepare_remove(ledger: Ledger, command: Command) -> Prepared:
    def apply(boundary: Boundary) -> None:
        if not ledger.remove(command.target, boundary.done, by=command.set_by):
            ids = ", ".join(entry.id for entry in ledger.entries()) or "none"
            raise UsageError(f"no intervention {command.target!r} is in force; there are: {ids}")

    return apply


def _prepare_remove_all(ledger: Ledger, command: Command) -> Prepared:
    return lambda boundary: ledger.remove_all(boundary.done, by=command.set_by)


def _end_of(command: Command) -> End:
    if command.is_kept:
        return End()
    if command.end_steps is None and command.end_s is None:
        return End(viewer=command.peer)
    return End(steps=command.end_steps, seconds=command.end_s)
