"""`attach`: checks its arguments, makes a Scope, and prints how to watch the run."""

import gc
import os
import weakref
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent.notebook.cells import notebook_shell, variables_of
from gradscope.agent.run.distributed import rank_and_world_size
from gradscope.agent.run.identity import run_name
from gradscope.agent.run.settings import Settings
from gradscope.agent.scope import Scope
from gradscope.budget import OBSERVED_AT_START, Sampler
from gradscope.errors import UsageError
from gradscope.hooks import LayerPatterns
from gradscope.intervene import OwnFunction, register_action
from gradscope.names import counted
from gradscope.notice import print_notice

__all__ = ["attach", "attach_automatically", "is_attached", "register_intervention", "scopes"]

_live: dict[int, tuple[weakref.ref[nn.Module], Scope]] = {}
"""The scopes of this process, by the id of their model, so that a script need not keep a reference."""

_variables: weakref.WeakKeyDictionary[Scope, frozenset[str]] = weakref.WeakKeyDictionary()
"""In a notebook: the names of the variables that held the model when it was attached."""

_automatic: weakref.WeakSet[Scope] = weakref.WeakSet()
"""The scopes that the script has not asked for. They end if the script attaches to their model itself."""


def attach(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    name: str | None = None,
    layers: LayerPatterns | None = None,
    budget: float | None = 0.02,
    every: int | None = None,
    detail: str = "core",
    digest: bool = False,
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
    """Observe a model while it trains. The training stays bitwise the same.

    model: any nn.Module. gradscope observes its layers and keeps only a weak reference to the model.
    optimizer: an optimizer that must step before a step of the run ends, whatever tensors it holds.
        Default: each optimizer that holds parameters of the model. Consecutive optimizer steps without
        a forward of the model between them are one step.
    name: the name of the run. Default: the name of the script, the class of the model and a short id.
    layers: a glob or `re:` regex over module names, a sequence of these, or a callable of (name,
        module). None: all modules except containers that only call other modules.
    budget: the fraction of the step time that observing may cost, between 0 and 1. None: observe every
        step.
    every: observe every N-th step, instead of using a budget.
    detail: "core", or "full" to also count zeros, subnormals and exponents of the elements.
    digest: also compute a 64-bit digest of each measured tensor and of the model's inputs, so that `gradscope diff`
        compares two runs exactly.
    record: keep a recording of bounded size on disk: True, False, or the path of the file.
    hub: "auto" joins the hub of this user or starts one; a runtime directory selects the hub of that
        directory; None: no hub.
    control: False: viewers can observe the run but not change it.
    scaler: the GradScaler of a training with AMP. With a scaler, gradients are shown unscaled and
        skipped iterations are detected; without one, gradients under float16 autocast are marked as
        scaled.
    start_step: the index of the first step, for a run that was resumed.
    memory_limit_bytes: simulate a smaller device: raise torch.OutOfMemoryError when a layer returns and
        the process (on CUDA: the allocator) holds more memory. Memory is then measured in every step.
        This is one of two cases in which gradscope raises an error in the training.
    resources_every: measure memory and time in every N-th step. None: gradscope chooses a few steps and
        uses at most a quarter of the budget (of 0.02 if there is no budget).
    replace: detach an existing scope of this model first. A notebook does so by itself, also with the scope of
        the model that the same variable held before.
    quiet: do not print on stderr how to watch the run.

    Raises UsageError for an invalid argument (its subclass UnknownLayerError for `layers`), and if the
    model already has a scope. With GRADSCOPE=0 in the environment, the returned Scope does nothing.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"attach(model) takes an nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    settings = Settings(
        run=run_name(name, model),
        optimizer=optimizer,
        layers=layers,
        detail=detail,
        has_digest=digest,
        record=record,
        hub=hub,
        is_controllable=control,
        scaler=scaler,
        start_step=start_step,
        memory_limit_bytes=memory_limit_bytes,
        resources_every=resources_every,
        is_quiet=quiet,
        is_inert=os.environ.get("GRADSCOPE", "1") == "0",
    )
    sampler = Sampler(
        budget=budget,
        every=every,
        is_shared=rank_and_world_size()[1] > 1,
        first_steps=OBSERVED_AT_START,
    )
    if _live and gc.isenabled():
        gc.collect()  # a model that was replaced may be part of a cycle; its run then ends here
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


def attach_automatically(model: nn.Module, **arguments: Any) -> Scope:  # Any: the arguments of attach
    """Attach to a model for a script that does not do so. A later `attach` of the script replaces the scope."""
    scope = attach(model, **arguments)
    _automatic.add(scope)
    return scope


def is_attached(model: nn.Module) -> bool:
    """Return whether the model is attached, by itself, as part of another model, or in a wrapper."""
    return any(_share_modules(model, other) for other, _ in _live_models())


def scope_of(model: nn.Module) -> Scope | None:
    """Return the scope that is attached to a model; None if there is none."""
    model = getattr(model, "_orig_mod", model)
    found = _live.get(id(model))
    return found[1] if found is not None and found[0]() is model else None


def register_intervention(
    name: str,
    function: OwnFunction,
    *,
    sites: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Register a function of the script as an intervention that viewers can install by its name.

    function: `function(gradient, *, …) -> gradient`, or a subclass of torch.autograd.Function, which is
        applied in the forward pass. Its keyword parameters are the arguments of the intervention; each
        is annotated as float, int, bool or a Literal of strings. The first line of the docstring is the
        description.
    sites: the sites where it can be installed. Default: all sites (not "params" for a Function).
    ranges: the smallest and the largest allowed value of each parameter.

    A function registered later under the same name replaces the earlier one. Raises UsageError if the
    name is invalid or belongs to a built-in intervention, or if a parameter has no supported
    annotation.
    """
    register_action(name, function, sites=sites, ranges=ranges)
    for scope in scopes():
        scope.announce_actions()


def _live_models() -> list[tuple[nn.Module, Scope]]:
    pairs = [(reference(), scope) for reference, scope in list(_live.values())]
    return [(model, scope) for model, scope in pairs if model is not None]


def _share_modules(one: nn.Module, other: nn.Module) -> bool:
    """Return whether one of two modules contains the other."""
    return any(each is one for each in other.modules()) or any(each is other for each in one.modules())


def _make_room(model: nn.Module, *, replace: bool) -> None:
    for other, scope in _live_models():
        if scope in _automatic and _share_modules(model, other):
            scope.detach()
    names = variables_of(model)
    for old in [scope for scope, held in _variables.items() if held & names]:
        old.detach()
    found = scope_of(model)
    if found is None:
        return
    if not replace and notebook_shell() is None:
        raise UsageError(
            f"this model is attached already, as run {found.run!r}; use that scope "
            "(gradscope.scopes()), detach it, or pass replace=True"
        )
    found.detach()


def _remember(model: nn.Module, scope: Scope) -> None:
    """Keep the scope alive as long as its model, and at most until the process ends."""
    key = id(model)
    _live[key] = weakref.ref(model), scope
    if names := variables_of(model):
        _variables[scope] = names
    finalizer = weakref.finalize(model, scope.end_with_model)
    scope.when_detached(finalizer.detach)
    scope.when_detached(lambda: _live.pop(key, None))


def _say_how_to_watch(scope: Scope) -> None:
    print_notice(
        f"gradscope: watching {counted(scope.watched_count, 'layer')} of run {scope.run!r} ({scope.measured_by}); "
        f"see it with: gradscope watch {scope.run}"
    )
