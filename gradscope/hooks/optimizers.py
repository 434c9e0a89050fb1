"""`OptimizerHook`: global hooks around the steps of a model's optimizers.

An optimizer belongs to the model if it holds one of its parameters.
"""

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gradscope.hooks.compile.dynamo_disable import untraced

__all__ = ["Closure", "OptimizerHook", "StepHook", "parameters_of"]

_WRAPPER_LIVES_IN = Optimizer.__module__
"""The module that contains torch's wrapper of `step`, which calls the hooks."""

_SETS_KEPT = 16
"""Maximum number of cached sets of optimizers. If there are more, the cache is cleared."""

Closure: TypeAlias = Callable[[], Any]
"""The function with which LBFGS and other optimizers recompute the loss."""

StepHook: TypeAlias = Callable[[Optimizer, Any, Any], Any]
"""A hook around each step of an optimizer, with PyTorch's arguments: (optimizer, args, kwargs)."""


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters of an optimizer, group after group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


class OptimizerHook:
    """Calls `before(optimizer, closure)` and `after(optimizer)` around each step of the model's optimizers.

    If `before` returns a closure, it replaces the original one. A step inside another step (of an optimizer
    that wraps another) is part of the outer step and is not reported. An optimizer belongs to the model if it
    holds one of the parameters that `parameters()` returns, or if it is `given`, whatever that holds; this is checked
    when the optimizer, or a new parameter group, is first seen. An optimizer that shares its parameter groups with
    `given` (which then wraps it) counts as `given`. Active from `install` to `remove`. Optimizers are held weakly.
    """

    def __init__(
        self,
        parameters: Callable[[], Iterable[nn.Parameter]],
        before: Callable[[Optimizer, Closure | None], Closure | None],
        after: Callable[[Optimizer], None],
        *,
        given: Optimizer | None = None,
    ) -> None:
        self._parameters = parameters
        self._before = before
        self._after = after
        self._known: weakref.WeakKeyDictionary[Optimizer, tuple[int, bool]] = (
            weakref.WeakKeyDictionary()
        )
        self._given = None if given is None else weakref.ref(given)
        self._foreign: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._not_held: dict[
            frozenset[tuple[weakref.ref[Optimizer], int]], list[weakref.ref[nn.Parameter]]
        ] = {}
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet([] if given is None else [given])
        self._open: weakref.ref[Optimizer] | None = None
        self._newest: tuple[weakref.ref[Optimizer], int, bool] | None = None
        self._inside = 0
        self._handles: list[Any] = []  # Any: torch has two types of handle, both with remove()

    def stepped_optimizers(self) -> list[Optimizer]:
        """Return the model's optimizers that have stepped, and `given`."""
        return list(self._stepped)

    @property
    def given(self) -> Optimizer | None:
        """The optimizer that was given, if it is alive."""
        return None if self._given is None else self._given()

    def is_given(self, optimizer: Optimizer) -> bool:
        """Return whether this is the given optimizer, or the one that it wraps."""
        given = self.given
        return given is not None and (
            given is optimizer or given.param_groups is optimizer.param_groups
        )

    def is_foreign(self, optimizer: Optimizer) -> bool:
        """Return whether an optimizer is the given one and has stepped, but holds no parameter of the model."""
        return optimizer in self._foreign

    def are_all_held(self, optimizers: Iterable[Optimizer]) -> bool:
        """Return whether these optimizers together hold all trainable parameters of the model."""
        key = frozenset((weakref.ref(each), len(each.param_groups)) for each in optimizers)
        if key not in self._not_held:
            held = {id(p) for each in optimizers for p in parameters_of(each)}
            if len(self._not_held) == _SETS_KEPT:
                self._not_held.clear()
            self._not_held[key] = [weakref.ref(p) for p in self._parameters() if id(p) not in held]
        left = [parameter() for parameter in self._not_held[key]]
        return not any(p is not None and p.requires_grad for p in left)

    def forget(self) -> None:
        """Discard what is known about each optimizer, because the model's parameters have changed."""
        self._known.clear()
        self._foreign.clear()
        self._not_held.clear()
        self._newest = None

    def install(self, begin: StepHook | None = None, end: StepHook | None = None) -> None:
        """Install the hooks for all optimizers of the process.

        If given, `begin` and `end` are installed instead of `on_step_begin` and `on_step_end`, and call these when
        needed.
        """
        if not self._handles:
            self._handles = [
                register_optimizer_step_pre_hook(begin or self.on_step_begin),
                register_optimizer_step_post_hook(end or self.on_step_end),
            ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def is_ours(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer is given or holds a parameter of the model."""
        groups = len(optimizer.param_groups)
        newest = self._newest
        if newest is not None and newest[1] == groups and newest[0]() is optimizer:
            return newest[2]
        known_groups, is_ours = self._known.get(optimizer, (0, False))
        if known_groups != groups:
            ids = {id(p) for p in self._parameters()}
            is_ours = any(id(p) in ids for p in parameters_of(optimizer))
            if not is_ours and self.is_given(optimizer):
                is_ours = True
                self._foreign.add(optimizer)
            self._known[optimizer] = groups, is_ours
            if is_ours:
                self._stepped.add(optimizer)
        self._newest = weakref.ref(optimizer), groups, is_ours
        return is_ours

    @untraced
    def on_step_begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:  # Any: as in torch
        """Handle the start of an optimizer's step (PyTorch's pre-hook)."""
        if not self.is_ours(optimizer):
            return None
        opened = self._open() if self._open is not None else None
        if opened is not None and _is_stepping(opened):  # and its step has not raised
            self._inside += 1
            return None
        self._open, self._inside = weakref.ref(optimizer), 0
        is_positional = len(args) > 1  # the optimizer itself comes first
        closure = args[1] if is_positional else kwargs.get("closure")
        changed = self._before(optimizer, closure)
        if changed is None:
            return None
        if is_positional:
            return (args[0], changed, *args[2:]), kwargs
        return args, {**kwargs, "closure": changed}

    @untraced
    def on_step_end(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:  # torch's signature
        """Handle the end of an optimizer's step (PyTorch's post-hook)."""
        if not self.is_ours(optimizer):
            return
        if self._inside:
            self._inside -= 1
            return
        self._open = None
        self._after(optimizer)


def _is_stepping(optimizer: Optimizer) -> bool:
    """Return whether the step that now begins runs inside a step of this optimizer, in this thread."""
    frame, steps = sys._getframe(), 0  # noqa: SLF001 - called only after a step has begun and before it has ended
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == _WRAPPER_LIVES_IN and "profile_name" in frame.f_locals:
            steps += 1
            if steps > 1 and frame.f_locals.get("self") is optimizer:
                return True
    return False
