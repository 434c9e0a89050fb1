"""`Fault`: what is needed to reproduce a traced step in another process, as a file in the safetensors format.

Contents: the parameters and buffers of the module, the arguments of its forward, the gradient at its output, and the
random states. Nothing is pickled. Arguments may be tensors, numbers, strings, None, and lists, tuples and dicts of
these; of any other argument only the type is stored, and such a file cannot be replayed.
"""

import json
import random
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from gradscope.agent.flight_recorder.forward_record import ForwardRecord, versions_of
from gradscope.agent.flight_recorder.isolation import RandomState
from gradscope.errors import UsageError
from gradscope.hooks import original_module

__all__ = ["Fault", "copy_fault", "load_fault", "record_of", "save_fault"]

_LIMIT_BYTES: Final = 1 << 30
"""Parameters and buffers are left out if they are larger together."""

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """Copies on the host. `about` is the JSON part of the file: `module` is the layer whose forward ran."""

    about: dict[str, Any]  # Any: what JSON takes
    tensors: dict[str, torch.Tensor]


def copy_fault(record: ForwardRecord, model: nn.Module | None, *, step: int) -> Fault | None:
    """Copy what a record refers to; None if its module or its inputs are not there any more."""
    module = record.module()
    if module is None or model is None or not (record.args or record.kwargs):
        return None
    module = original_module(module)
    tensors = {f"gradient.{place}": _copy(each) for place, each in record.gradients.items()}
    state = module.state_dict()
    has_state = (
        sum(each.nbytes for each in state.values() if isinstance(each, torch.Tensor)) <= _LIMIT_BYTES
    )
    if has_state:
        tensors |= {f"state.{name}": _copy(each) for name, each in state.items()}
    about = {
        "version": _VERSION,
        "step": step,
        "module": next((name for name, each in model.named_modules() if each is module), ""),
        "args": [_spec(each, tensors) for each in record.args],
        "kwargs": {key: _spec(each, tensors) for key, each in record.kwargs.items()},
        "is_training": record.is_training,
        "autocast": [[device, str(dtype).removeprefix("torch.")] for device, dtype in record.autocast],
        "has_state": has_state,
        "python_random": _python_random(record.random),
    }
    tensors |= {f"random.{device}": state for device, state in record.random.tensors().items()}
    return Fault(about, tensors)


def save_fault(fault: Fault, path: Path) -> None:
    """Write a fault. Raises UsageError if safetensors is not installed."""
    tensors = {name: each.contiguous() for name, each in fault.tensors.items()}
    _library().save_file(tensors, path, metadata={"gradscope_fault": json.dumps(fault.about)})


def load_fault(path: Path) -> Fault:
    """Read a fault. Raises UsageError if the file is not one."""
    open_file = _library().safe_open
    try:
        with open_file(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["gradscope_fault"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated over
    except Exception as error:  # noqa: BLE001 - the library has several
        raise UsageError(
            f"expected a file of `gradscope capture RUN --fault`, got {path}: {error}"
        ) from None
    if about.get("version") != _VERSION:
        raise UsageError(
            f"expected version {_VERSION} of a fault, got {about.get('version')!r} in {path}"
        )
    return Fault(about, tensors)


def record_of(fault: Fault, module: nn.Module) -> ForwardRecord:
    """Return a fault as a record of a forward of `module`. Raises UsageError for arguments that were not stored."""
    about = fault.about
    args = tuple(_value(each, fault.tensors) for each in about["args"])
    kwargs = {key: _value(each, fault.tensors) for key, each in about["kwargs"].items()}
    state = RandomState(has_python=False)
    state.load(
        {
            name.removeprefix("random."): t
            for name, t in fault.tensors.items()
            if name.startswith("random.")
        }
    )
    if about["python_random"] is not None:
        state.python, state.numpy = _random_of(about["python_random"])
    record = ForwardRecord(
        step=about["step"],
        module=weakref.ref(module),
        args=args,
        random=state,
        versions=versions_of((args, kwargs)),
        autocast=[(device, getattr(torch, dtype)) for device, dtype in about["autocast"]],
        called_at=None,
        is_training=about["is_training"],
        kwargs=kwargs,
        has_returned=True,
    )
    for name, tensor in fault.tensors.items():
        if name.startswith("gradient."):
            record.gradients[int(name.removeprefix("gradient."))] = tensor
            record.has_bad_gradient |= not bool(torch.isfinite(tensor).all())
    return record


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _spec(value: Any, tensors: dict[str, torch.Tensor]) -> Any:  # Any: an argument; what JSON takes
    """Return an argument for JSON, and put its tensors aside."""
    if isinstance(value, torch.Tensor):
        name = f"input.{len(tensors)}"
        tensors[name] = _copy(value)
        return {"tensor": name, "requires_grad": value.requires_grad}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_spec(each, tensors) for each in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _spec(each, tensors) for key, each in value.items()}}
    return {"type": type(value).__name__}


def _value(spec: Any, tensors: Mapping[str, torch.Tensor]) -> Any:  # Any: as above
    if "tensor" in spec:
        return tensors[spec["tensor"]].clone().requires_grad_(spec["requires_grad"])
    if "value" in spec:
        return spec["value"]
    if "dict" in spec:
        return {key: _value(each, tensors) for key, each in spec["dict"].items()}
    if "list" in spec or "tuple" in spec:
        items = [_value(each, tensors) for each in spec.get("list", spec.get("tuple"))]
        return items if "list" in spec else tuple(items)
    raise UsageError(
        f"an argument of the forward is of type {spec['type']}, which is not stored; only tensors, numbers, "
        "strings, None, lists, tuples and dicts are"
    )


def _python_random(state: RandomState) -> Any:  # Any: what JSON takes
    if state.python is None:
        return None
    name, keys, *rest = state.numpy
    return {"python": state.python, "numpy": [name, [int(each) for each in keys], *rest]}


def _random_of(stored: Any) -> tuple[Any, Any]:  # Any: as the two libraries say
    version, numbers, gauss = stored["python"]
    name, keys, *rest = stored["numpy"]
    python = random.Random()  # noqa: S311 - only to check the state
    python.setstate((version, tuple(numbers), gauss))
    return python.getstate(), (name, np.array(keys, dtype=np.uint32), *rest)


def _library() -> Any:  # Any: an optional library
    try:
        import safetensors.torch as library  # noqa: PLC0415 - optional, and slow to load
    except ImportError:
        raise UsageError(
            "a fault is saved in the safetensors format, and safetensors is not installed: "
            "pip install 'gradscope[tensors]'"
        ) from None
    return library
