"""`attach`: the one line. It checks what it is given, makes a Scope, and says how to watch."""

import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from os import PathLike

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent.run.distributed import rank_and_world_size
from gradscope.agent.run.identity import run_name
from gradscope.agent.run.settings import Settings
from gradscope.agent.scope import Scope
from gradscope.budget import Sampler
from gradscope.errors import UsageError
from gradscope.hooks import LayerPatterns
from gradscope.intervene import OwnFunction, register_action

__all__ = ["attach", "register_intervention", "scopes"]

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
    memory_limit_bytes: int | None = None,
    resources_every: int | None = None,
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
    detail: "core", or "full" to count zeros, subnormals and the exponents of the elements, too.
    record: keep a bounded recording on disk: True, False, or a path.
    hub: "auto" joins this user's hub or starts one; a runtime directory names another; None: no link.
    control: False: no viewer can change anything.
    scaler: the GradScaler of a training with AMP, so that gradients are shown unscaled and skipped
        iterations are known; without it they are marked as scaled under float16 autocast.
    start_step: the index of the first step, for a run that was resumed.
    memory_limit_bytes: raise torch.OutOfMemoryError, as an allocator would, where a layer is left and
        the process (on CUDA: the allocator) holds more; every step is measured then. It tells what a
        smaller device would say, and is a case in which gradscope raises into a training.
    resources_every: measure memory and time in exactly every so many steps. None: in few chosen ones,
        however many are observed, at no more than a quarter of the budget (of 0.02 without one).
    replace: detach an earlier scope of this model first.
    quiet: do not say on stderr how to watch.

    Raises UsageError (its subclass UnknownLayerError for `layers`) for an argument that cannot be, and
    when the model has a scope already. With GRADSCOPE=0 in the environment the Scope is inert.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"attach(model) takes an nn.Module, got {type(model).__name__}")
    settings = Settings(
        run=run_name(name),
        optimizer=optimizer,
        layers=layers,
        detail=detail,
        record=record,
        hub=hub,
        is_controllable=control,
        scaler=scaler,
        start_step=start_step,
        memory_limit_bytes=memory_limit_bytes,
        resources_every=resources_every,
        is_inert=os.environ.get("GRADSCOPE", "1") == "0",
    )
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    sampler = Sampler(budget=budget, every=every, is_shared=rank_and_world_size()[1] > 1)
    _make_room(model, replace=replace)
    scope = Scope(model, settings, sampler)
    if not settings.is_inert:
        _remember(model, scope)
        if not quiet and scope.rank == 0:
            _say_how_to_watch(scope)
    return scope


def scopes() -> list[Scope]:
    """Return the scopes that are attached, the oldest first."""
    return [scope for _, scope in _live.values()]


def register_intervention(
    name: str,
    function: OwnFunction,
    *,
    sites: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Make a function of the script's own known to viewers, as an intervention of that name.

    function: `function(gradient, *, …) -> gradient`, or a subclass of torch.autograd.Function, which is
        applied in forward. Its keyword parameters, annotated as float, int, bool or Literal of texts,
        are what a viewer can set; the first line of its docstring is what it is told.
    sites: where it may act; everywhere when left out ("params" not for a Function).
    ranges: the least and the greatest value of a parameter.

    A later function of the same name takes its place. Raises UsageError for a name that is none, or
    gradscope's own, and for parameters that cannot be understood.
    """
    register_action(name, function, sites=sites, ranges=ranges)
    for scope in scopes():
        scope.announce_actions()


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
        f"gradscope: watching {scope.watched_count} layers of run {scope.run!r} ({scope.measured_by}); "
        f"see it with: gradscope watch {scope.run}",
        file=sys.stderr,
    )
