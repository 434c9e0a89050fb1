"""Replays a forward of the model, and the backward pass behind it, to find where a NaN or an infinity arises.

The replay starts with the inputs, the random state and the parameters of the original, in copies (`isolation.py`), so
the training does not notice it. It must run before the optimizer steps, because parameters are different afterwards.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gradscope.agent.flight_recorder.forward_record import ForwardRecord, versions_of
from gradscope.agent.flight_recorder.isolation import Isolation, RandomState, copy_of
from gradscope.agent.flight_recorder.operations import OperationWatcher, count_nonfinite
from gradscope.agent.flight_recorder.origin import Origin, Pass
from gradscope.hooks import CallHooks, SlotTable, find_tensors, is_sharded, original_module
from gradscope.resources import is_out_of_memory

__all__ = ["Replay", "replay"]

_WRAPPERS: Final = (DataParallel, DistributedDataParallel)


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of a replay: the origin, or the reason why it was not found."""

    origin: Origin | None
    reason: str = ""


class _NotReplayed(Exception):  # noqa: N818 - not an error
    """The forward cannot be replayed; the message says why."""


def replay(record: ForwardRecord, names: dict[int, str], *, is_debugging: bool = False) -> Replay:
    """Replay one forward and its backward pass.

    names: the layers of the model, by the id of the module. is_debugging: stop in the debugger at the origin.
    Never raises an error of the model.
    """
    try:
        module = _module_of(record)
        known = _find_known(record, module, names)
        if known is not None:
            return Replay(known)
        return Replay(_Run(record, module, names, is_debugging=is_debugging).find())
    except _NotReplayed as reason:
        return Replay(None, str(reason))
    except Exception as error:  # noqa: BLE001 - the model's own, or an operation's that does not support the mode
        if is_out_of_memory(error):
            return Replay(None, "the memory did not suffice to replay the forward pass")
        text = str(error).partition("\n")[0][:120]
        return Replay(None, f"the replay raised {type(error).__name__}: {text}")


def _module_of(record: ForwardRecord) -> nn.Module:
    """Return the module to run. Raises _NotReplayed if it must not run or cannot give the same result."""
    module = record.module()
    if module is None:
        raise _NotReplayed("the model was garbage-collected")
    module = original_module(module)
    if isinstance(module, _WRAPPERS):
        module = module.module
    if any(is_sharded(each) for each in module.parameters()):
        raise _NotReplayed("the parameters are sharded, and a replay would need the other ranks")
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if is_distributed and any(isinstance(each, nn.SyncBatchNorm) for each in module.modules()):
        raise _NotReplayed("SyncBatchNorm would need the other ranks")
    if not record.has_returned:
        raise _NotReplayed("the forward pass did not return")
    if record.was_written_to:
        raise _NotReplayed("an input was changed in place after the forward pass")
    return module


def _find_known(record: ForwardRecord, module: nn.Module, names: dict[int, str]) -> Origin | None:
    """Return the origin if a parameter, a buffer or an input contains NaN already."""
    for place, name, tensor in _given(record, module):
        found = count_nonfinite(tensor)
        if found.nan or (found.inf and place == "optimizer"):
            layer, _, attribute = name.rpartition(".")
            is_input = place == "input"
            return Origin(
                place=place,
                what="NaN" if found.nan else "Inf",
                layer=None if is_input else names.get(id(module.get_submodule(layer)), layer),
                operation="",
                line=record.line() if is_input else None,
                count=found.nan + found.inf,
                total=tensor.numel(),
                detail=name if is_input else attribute,
            )
    return None


def _given(record: ForwardRecord, module: nn.Module) -> Iterator[tuple[Pass, str, torch.Tensor]]:
    """Yield what a forward starts with: where it comes from, its name, the tensor."""
    for place, value in enumerate(record.args):
        yield from (("input", f"input {place}{_dotted(path)}", t) for path, t in find_tensors(value))
    for key, value in record.kwargs.items():
        yield from (("input", f"input {key}{_dotted(path)}", t) for path, t in find_tensors(value))
    yield from (("optimizer", name, parameter) for name, parameter in module.named_parameters())


def _dotted(path: str) -> str:
    return f".{path}" if path else ""


class _Run:
    """One replay."""

    def __init__(
        self, record: ForwardRecord, module: nn.Module, names: dict[int, str], *, is_debugging: bool
    ) -> None:
        self._record = record
        self._module = module
        self._names = names
        self._watcher = OperationWatcher((_Run._call.__code__, _run_backward.__code__), record.line())
        self._watcher.is_debugging = is_debugging
        self._layers: list[str] = []
        self._hooks = CallHooks(
            SlotTable((each, names.get(id(each), name)) for name, each in module.named_modules()),
            self._enter,
            self._leave,
            self._abandon,
        )

    def find(self) -> Origin:
        """Return the origin. Raises _NotReplayed if all results of the replay are finite."""
        record = self._record
        isolation = Isolation(self._module)
        with isolation():
            copies: dict[int, torch.Tensor] = {}
            args, kwargs = copy_of((record.args, record.kwargs), copies)
            for place, name, tensor in _given(record, self._module):
                if place == "input" and count_nonfinite(tensor):
                    copy = copies.get(id(tensor))
                    if copy is not None:
                        self._watcher.add(copy, Origin(place="input", what="Inf", detail=name))
            before = versions_of((args, kwargs))
            record.random.put_back()
            state = RandomState(has_python=True)
            output = self._call(args, kwargs)
            origin = self._watcher.first_origin(tensor for _, tensor in find_tensors(output))
            if origin is None and record.loss is not None:
                return record.loss
            if origin is None and not record.has_bad_gradient:
                parameters = list(isolation.parameters.values())
                self._call_backward(output, parameters)
                origin = self._watcher.first_origin(p.grad for p in parameters if p.grad is not None)
            if origin is not None:
                return origin
            is_written = before != versions_of((args, kwargs))
            self._explain(isolation, state, is_written=is_written)
        raise AssertionError  # pragma: no cover - `_explain` raises

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # Any: as the model's own
        """Run the forward. No frame above this one belongs to it."""
        record = self._record
        with contextlib.ExitStack() as stack:
            for device, dtype in record.autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype))
            if record.is_training != self._module.training:
                self._module.train(record.is_training)
            self._hooks.install()
            stack.callback(self._hooks.remove)
            stack.enter_context(self._watcher)
            return self._module(*args, **kwargs)

    def _call_backward(self, output: object, parameters: list[nn.Parameter]) -> None:
        gradients = self._record.gradients
        pairs = [
            (tensor, gradients[place])
            for place, (_, tensor) in enumerate(find_tensors(output))
            if place in gradients and tensor.requires_grad and tensor.shape == gradients[place].shape
        ]
        if not pairs:
            reason = "was too large to be kept" if self._record.too_large else "did not arrive"
            raise _NotReplayed(
                f"the forward pass is finite, and the gradient at the model's output {reason}"
            )
        tensors, given = zip(*pairs, strict=True)
        self._hooks.install()
        try:
            with self._watcher:
                _run_backward(tensors, given, [each for each in parameters if each.requires_grad])
        finally:
            self._hooks.remove()

    def _explain(self, isolation: Isolation, state: RandomState, *, is_written: bool) -> None:
        """Raise _NotReplayed with the likely reason why all results of the replay are finite."""
        if is_written:
            raise _NotReplayed("the forward pass changes its inputs in place")
        after = RandomState(has_python=True)
        has_drawn = state.python != after.python or str(state.numpy) != str(after.numpy)
        if has_drawn and self._record.random.python is None:
            raise _NotReplayed(
                "the forward pass draws random numbers from Python or NumPy, whose state was not kept; it is kept from "
                "now on"
            )
        if self._record.has_bad_gradient:
            raise _NotReplayed(
                "the model's output is finite and the gradient of the loss at it is not, so the loss is at fault"
            )
        if isolation.buffers:
            raise _NotReplayed(
                "all results of the replay are finite: the model has a state that the forward pass changes "
                f"({', '.join(list(isolation.buffers)[:2])}), or the cause is outside of the model"
            )
        raise _NotReplayed(
            "all results of the replay are finite: the cause is outside of the model's forward pass"
        )

    def _enter(self, name: str, _args: object) -> None:
        self._layers.append(name)
        self._watcher.enter(name)

    def _leave(self, name: str, _args: object, _kwargs: object, _output: object) -> None:
        self._watcher.leave(name)
        self._abandon(name)

    def _abandon(self, _name: str) -> None:
        if self._layers:
            self._layers.pop()
        self._watcher.layer = (
            self._layers[-1] if self._layers else self._names.get(id(self._module), "")
        )


def _run_backward(
    tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
) -> None:
    """Run a backward pass that adds to the gradients of `inputs` only, and calls no hook of gradscope."""
    engine: Any = torch.autograd.graph._engine_run_backward  # noqa: SLF001 - what torch.autograd.backward calls; Any: not typed
    try:
        engine(
            tensors, gradients, True, False, tuple(inputs), allow_unreachable=True, accumulate_grad=True
        )
    except RuntimeError as error:
        if "heckpoint" not in str(error):
            raise
        engine(tensors, gradients, True, False, (), allow_unreachable=True, accumulate_grad=True)
