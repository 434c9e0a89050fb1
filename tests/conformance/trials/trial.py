"""`Trial`: what a case is written against. The same case runs bare, with plain hooks, and attached."""

import copy
import enum
import random
import re
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

import gradscope
from trials.reference import Reference, Row
from trials.traces import structure_of

__all__ = ["Mode", "Trial"]

SEED = 20
_ONCE = "(Triggered internally at"
"""Ends the warnings that torch's C++ gives once in a process: the first of two runs gets them."""


class Mode(enum.Enum):
    """What observes the run: nothing, plain PyTorch hooks, or gradscope."""

    BARE = "bare"
    REFERENCE = "reference"
    ATTACHED = "attached"


class Trial:
    """One run of a case. It keeps everything that must be the same in the three modes.

    A case calls `watch` on a model, `step` in place of `optimizer.step()`, `keep` with what it
    computed, and `attempt` around what may raise. `without_reference` is for what plain hooks cannot
    follow: the statistics are then not compared.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.kept: list[tuple[str, object]] = []
        self.asides: list[object] = []
        self.raised: list[str] = []
        self.warned: list[str] = []
        self.structures: list[object] = []
        self.references: list[Reference] = []
        self.steps: list[dict[tuple[str, str], Row]] = []
        self.tables: list[gradscope.Table | None] = []
        self.faults: dict[str, int] = {}
        self.random_states: list[object] = []
        self.is_compared = True
        self.is_scaled = False
        self.every = 1
        self._models: list[nn.Module] = []
        self._scopes: list[gradscope.Scope] = []

    @property
    def is_reference(self) -> bool:
        """Whether plain hooks look on: a case may then leave out checkpointing."""
        return self.mode is Mode.REFERENCE

    def without_reference(self) -> None:
        """Say that statistics are not compared in this case."""
        self.is_compared = False

    def stored_scaled(self) -> None:
        """Say that gradients are stored multiplied by a power of two: their exponents are shifted."""
        self.is_scaled = True

    def watch(self, model, optimizer=None, **options):
        """Attach, or place plain hooks, or do nothing; return the model."""
        self._models.append(model)
        self.every = options.get("every", 1)
        if self.mode is Mode.ATTACHED:
            common = {"every": 1, "detail": "full", "digest": True, "hub": None, "quiet": True}
            options = common | options
            self._scopes.append(gradscope.attach(model, optimizer, **options))
        elif self.is_reference and self.is_compared:
            self.references.append(Reference(model))
        return model

    def changed(self) -> None:
        """Say that modules came, went or were replaced."""
        for reference in self.references:
            reference.follow()

    def step(self, optimizer=None, *, by=None, closure=None, ends=True, model=0):
        """Take an optimizer's step, or end a step by hand where there is no optimizer.

        by: what takes it, `optimizer.step` when left out. closure: what the optimizer is to evaluate;
        it calls `evaluated`. ends: False for the step of a second optimizer. model: the index of the
        watched model, where there are several.
        """
        take = by or (optimizer.step if optimizer is not None else lambda: None)
        if closure is not None:
            take = lambda: optimizer.step(closure)  # noqa: E731 - one of three ways
        if self.references:
            value = self.references[model].around(optimizer, take, has_closure=closure is not None)
            if ends:
                self.steps.append(self.references[model].end_step())
            return value
        value = take()
        if self._scopes:
            scope = self._scopes[model]
            if optimizer is None:
                scope.mark_step()
            if ends:
                self.tables.append(_latest(scope))
        return value

    def backward(self, loss: torch.Tensor, *, recomputes_twice=False) -> None:
        """Run a backward pass. recomputes_twice: forwards inside of it repeat what was seen already."""
        for reference in self.references:
            reference.is_repeating = recomputes_twice
        loss.backward()
        for reference in self.references:
            reference.is_repeating = False

    def clip(self, model: nn.Module, take: Callable[[list[nn.Parameter]], object]) -> object:
        """Clip the gradients of a model, and keep what that returns."""
        for reference in self.references:
            reference.add_before_clip(model)
        value = take(list(model.parameters()))
        self.keep(clipped=value)
        return value

    def evaluated(self, optimizer) -> None:
        """Say that a closure has computed the gradients once."""
        for reference in self.references:
            reference.add_gradients(optimizer)

    def discard(self, work: Callable[[], object]) -> None:
        """Do what ends an iteration without a step; nothing of the iteration is to be shown."""
        if self.is_reference:
            for reference in self.references:
                reference.discard()
        else:
            work()

    def keep(self, *values, **named) -> None:
        """Keep copies of tensors and plain values, to be compared bit for bit."""
        named = {str(i): value for i, value in enumerate(values)} | named
        self.kept += [(name, copied(value)) for name, value in named.items()]

    def aside(self, work: Callable[[], object]) -> None:
        """Do something with the watched model that plain hooks would hinder; they are spared it."""
        if self.is_reference:
            return
        try:
            self.asides.append(copied(work()))
        except Exception as error:  # noqa: BLE001 - any: it is compared, not handled
            self.asides.append(_described(error))

    def attempt(self, work: Callable[[], object]) -> object:
        """Do something that may raise, and keep what it raised."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - any: it is compared, not handled
            self.raised.append(_described(error))
            return None

    def run(self, case: Callable[["Trial"], None]) -> "Trial":
        """Run a case from the same random states as in every other mode, and keep what it left."""
        torch.manual_seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002 - the global one is meant
        random.seed(SEED)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.attempt(lambda: case(self))
            self.random_states = [torch.get_rng_state(), np.random.get_state()[1], random.getstate()]  # noqa: NPY002
            self._keep_models()
            for scope in self._scopes:
                self.faults |= scope.faults
                scope.detach()
        self.structures = [structure_of(model) for model in self._models]
        warned = [f"{w.category.__name__}: {w.message}" for w in caught]
        self.warned = [text.splitlines()[0] for text in warned if _ONCE not in text]
        self._models.clear()
        return self

    def forget(self, model: nn.Module) -> None:
        """Let go of a model that a case deletes; it is not looked at in the end."""
        self._models = [other for other in self._models if other is not model]

    def _keep_models(self) -> None:
        for i, model in enumerate(self._models):
            for name, p in model.named_parameters(remove_duplicate=False):
                if not isinstance(p, nn.UninitializedParameter):
                    self.keep(
                        **{f"model {i} parameter {name}": p, f"model {i} gradient {name}": p.grad}
                    )
            for name, buffer in model.named_buffers(remove_duplicate=False):
                if not isinstance(buffer, nn.UninitializedBuffer):
                    self.keep(**{f"model {i} buffer {name}": buffer})


def _latest(scope: gradscope.Scope) -> gradscope.Table | None:
    """Return the table of the step that just ended; None where it was not observed."""
    try:
        table = scope.latest()
    except gradscope.errors.NotMeasuredError:
        return None
    return table if table.step == scope.step - 1 else None


def copied(value):
    """Return a copy of tensors in plain structures, and of plain values."""
    if is_traceable_wrapper_subclass(value):
        return [copied(getattr(value, name)) for name in value.__tensor_flatten__()[0]]
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if not value.is_quantized else value.dequantize()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [copied(item) for item in value]
    return copy.deepcopy(value) if isinstance(value, np.ndarray) else value


def _described(error: BaseException) -> str:
    """Return type and message, without addresses: they differ between any two runs."""
    return re.sub(r"0x[0-9a-f]+", "0x…", f"{type(error).__module__}.{type(error).__name__}: {error}")
