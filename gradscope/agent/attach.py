"""`attach`: the one line. It checks what it is given, makes a Scope, and says how to watch."""

import os
import sys
import weakref
from os import PathLike, fspath
from pathlib import Path

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent.identity import run_name
from gradscope.agent.scope import Scope
from gradscope.errors import UsageError
from gradscope.hooks import LayerPatterns
from gradscope.observe import Sampler

__all__ = ["attach", "scopes"]

_DETAILS = ("core", "full")
_live: dict[int, tuple[weakref.ref[nn.Module], Scope]] = {}
"""The scopes of this process by the id of their model: the one-line use keeps none itself."""


def attach(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    name: str | None = None,
    layers: LayerPatterns | None = None,
    budget: float | None = 0.02,
    every: int | None = None,
    detail: str = "core",
    record: bool | str | PathLike[str] = True,
    hub: str | None = "auto",
    control: bool = True,
    scaler: GradScaler | None = None,
    start_step: int = 0,
    replace: bool = False,
    quiet: bool = False,
) -> Scope:
    """Watch a model while it trains. Nothing about the training changes.

    model: any nn.Module. Its layers are watched; it is held weakly.
    optimizer: whose step ends a step; the first of the model's that steps, when left out.
    name: the run's name; the script's and a short id when left out.
    layers: a glob or `re:` regex over module names, several of them, or a callable of (name, module);
        None: all modules that have something of their own to show.
    budget: the fraction of the step time that observing may cost, between 0 and 1; None: every step.
    every: observe exactly every so many steps, instead of a budget.
    detail: "core", or "full" to count zeros and subnormals too.
    record: keep a bounded recording on disk: True, False, or a path.
    hub: "auto" joins this user's hub or starts one; a runtime directory names another; None: no link.
    control: False: no viewer can change anything.
    scaler: the GradScaler of a training with AMP, so that gradients are shown unscaled and skipped
        iterations are known; without it they are marked as scaled under float16 autocast.
    start_step: the index of the first step, for a run that was resumed.
    replace: detach an earlier scope of this model first.
    quiet: do not say on stderr how to watch.

    Raises UsageError (its subclass UnknownLayerError for `layers`) for an argument that cannot be, and
    when the model has a scope already. With GRADSCOPE=0 in the environment the Scope is inert.
    """
    _check(model, optimizer, scaler, detail, start_step)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    is_inert = os.environ.get("GRADSCOPE", "1") == "0"
    sampler = Sampler(budget=budget, every=every)
    run = run_name(name)
    _make_room(model, replace=replace)
    scope = Scope(
        model,
        layers=layers,
        optimizer=optimizer,
        sampler=sampler,
        run=run,
        record=_record(record),
        endpoint=None if hub == "auto" else hub,
        has_hub=hub is not None and not is_inert,
        scaler=scaler,
        is_full=detail == "full",
        is_controllable=control,
        start_step=start_step,
        is_inert=is_inert,
    )
    if not is_inert:
        _remember(model, scope)
        if not quiet and scope.rank == 0:
            _say_how_to_watch(scope)
    return scope


def scopes() -> list[Scope]:
    """Return the scopes that are attached, the oldest first."""
    return [scope for _, scope in _live.values()]


def _check(model: object, optimizer: object, scaler: object, detail: str, start_step: int) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"attach(model) takes an nn.Module, got {type(model).__name__}")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"attach(model, optimizer) takes a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    if scaler is not None and not isinstance(scaler, GradScaler):
        raise UsageError(f"scaler must be a torch.amp.GradScaler, got {type(scaler).__name__}")
    if detail not in _DETAILS:
        raise UsageError(f"detail must be one of {', '.join(_DETAILS)}, got {detail!r}")
    if not isinstance(start_step, int) or start_step < 0:
        raise UsageError(f"start_step must be a whole number of at least 0, got {start_step!r}")


def _record(record: bool | str | PathLike[str]) -> str | None:
    """Return what a hello says: None for the usual place, empty for no recording, or a path."""
    if isinstance(record, bool):
        return None if record else ""
    return str(Path(fspath(record)).absolute())


def _make_room(model: nn.Module, *, replace: bool) -> None:
    found = _live.get(id(model))
    if found is None or found[0]() is not model:
        return
    if not replace:
        raise UsageError(
            f"this model is attached already, as run {found[1].run!r}; use that scope "
            "(gradscope.scopes()), detach it, or pass replace=True"
        )
    found[1].detach()


def _remember(model: nn.Module, scope: Scope) -> None:
    """Keep the scope while its model lives; it ends with the model, or with the process."""
    key = id(model)
    _live[key] = weakref.ref(model), scope
    finalizer = weakref.finalize(model, scope.detach)
    scope.when_detached(finalizer.detach)
    scope.when_detached(lambda: _live.pop(key, None))


def _say_how_to_watch(scope: Scope) -> None:
    print(  # noqa: T201 - the one line that a person should see
        f"gradscope: watching {scope.watched_count} layers of run {scope.run!r}; "
        f"see it with: gradscope watch {scope.run}",
        file=sys.stderr,
    )
