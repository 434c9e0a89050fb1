"""The reference: every statistic from plain PyTorch hooks and float64 NumPy, without gradscope.

Gradients are read in front of the autograd node that computed a module's output (`register_prehook`
on it), which is another way than the hooks on tensors that gradscope uses.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

__all__ = ["Numbers", "Reference", "Row"]

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Numbers:
    """The statistics of some tensors taken together; float64, the deviation in two passes."""

    calls: int
    count: int
    nan: int
    posinf: int
    neginf: int
    zero: int
    subnormal: int
    min: float
    max: float
    mean: float
    std: float
    norm: float
    rms: float
    bins: tuple[int, ...]


@dataclass
class Row:
    """The tensors of one layer and kind in one step. `is_awaited`: a gradient might have come."""

    tensors: list[torch.Tensor] = field(default_factory=list)
    is_awaited: bool = False
    is_opaque: bool = False

    def numbers(self) -> Numbers:
        """Reduce the tensors, each taken apart into numbers and the least normal magnitude."""
        parts = [_plain(tensor) for tensor in self.tensors]
        x = np.concatenate([part.dense for part in parts])
        finite = x[np.isfinite(x)]
        stored = np.concatenate([part.stored for part in parts])
        stored = stored[np.isfinite(stored)]
        small = sum(int(((p.dense != 0) & (np.abs(p.dense) < p.tiny)).sum()) for p in parts)
        with np.errstate(over="ignore"):  # beyond float64, norm and deviation are infinite
            norm, std = float(np.linalg.norm(finite)), float(finite.std()) if finite.size else math.nan
        return Numbers(
            calls=len(parts),
            count=x.size,
            nan=int(np.isnan(x).sum()),
            posinf=int(np.isposinf(x).sum()),
            neginf=int(np.isneginf(x).sum()),
            zero=int((x == 0).sum()),
            subnormal=small,
            min=float(stored.min()) if stored.size else math.inf,
            max=float(stored.max()) if stored.size else -math.inf,
            mean=float(finite.mean()) if finite.size else math.nan,
            std=std,
            norm=norm,
            rms=norm / math.sqrt(finite.size) if finite.size else math.nan,
            bins=_bins(finite),
        )


def _bins(finite: np.ndarray) -> tuple[int, ...]:
    """Return the exponent histogram: frexp gives |x| = m 2^e with 0.5 <= m < 1."""
    x = finite[finite != 0]
    places = np.clip(np.frexp(x)[1] - 1 + 47, 0, 63) + 64 * (x < 0)
    return tuple(np.bincount(places, minlength=128).tolist())


@dataclass(frozen=True)
class _Part:
    dense: np.ndarray
    stored: np.ndarray
    tiny: float


def _plain(tensor: torch.Tensor) -> _Part:
    """Return a tensor's numbers as float64: magnitudes where complex, stored ones where sparse."""
    tensor = tensor.detach()
    tiny = torch.finfo(tensor.dtype).tiny
    stored = tensor
    if tensor.layout is not torch.strided:
        stored = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor.values()
        tensor = tensor.to_dense()
    return _Part(_as_float64(tensor), _as_float64(stored), tiny)


def _as_float64(tensor: torch.Tensor) -> np.ndarray:
    wide = tensor.to(torch.complex128).abs() if tensor.is_complex() else tensor.double()
    return wide.reshape(-1).numpy()


class Reference:
    """Plain hooks on one model. A step is (layer, kind) → Row.

    is_repeating: forwards that happen now repeat what was seen already (a checkpoint, not reentrant).
    """

    def __init__(self, model: nn.Module) -> None:
        self.is_repeating = False
        self._rows: dict[tuple[str, str], Row] = {}
        self._model = model
        self._hooked: set[nn.Module] = set()
        self.follow()

    def follow(self) -> None:
        """Read the model's modules again: they may have been added, removed or renamed.

        What ran while it was being changed does not belong to a step.
        """
        self._rows = {}
        model, named = self._model, list(self._model.named_modules())
        children = {name for name, module in named if name and _has_something_to_show(module)}
        self._watched = dict(named) if not children else {n: m for n, m in named if n in children}
        lists = (nn.ParameterList, nn.ParameterDict)
        has_list = any(isinstance(child, lists) for child in model.children())
        if has_list or next(model.parameters(recurse=False), None) is not None:
            self._watched[""] = model
        self._names = {module: name for name, module in self._watched.items()}
        for module in self._watched.values():
            if module not in self._hooked:
                self._hooked.add(module)
                module.register_forward_hook(
                    lambda m, _a, out: (
                        self._on_output(self._names[m], out) if m in self._names else None
                    )
                )

    def around(self, optimizer, take, *, has_closure=False):
        """Do an optimizer's step and measure around it; without one, measure all parameters."""
        owned = self._owned(optimizer)
        old = {id(p): p.detach().clone() for p in owned}
        moving = {id(p) for p in owned if (p.requires_grad if has_closure else p.grad is not None)}
        if not has_closure:
            self.add_gradients(optimizer)
        value = take()
        for layer, name, p in self._parameters(owned):
            self._add_parameter(layer, "param", name, old[id(p)])
            if optimizer is not None and id(p) in moving:
                self._add_parameter(layer, "update", name, _change(p, old[id(p)]))
        return value

    def add_gradients(self, optimizer) -> None:
        """Measure the parameters' gradients as they are now."""
        for layer, name, p in self._parameters(self._owned(optimizer)):
            if p.grad is not None:
                self._add_parameter(layer, "param_grad", name, p.grad.clone())

    def add_before_clip(self, model: nn.Module) -> None:
        """Measure the gradients of a model's parameters, which are about to be clipped."""
        for layer, name, p in self._parameters(list(model.parameters())):
            if p.grad is not None:
                self._add_parameter(layer, "param_grad_before_clip", name, p.grad.clone())

    def discard(self) -> None:
        """Forget the step in progress."""
        self._rows = {}

    def _owned(self, optimizer) -> list[nn.Parameter]:
        groups = optimizer.param_groups if optimizer is not None else ()
        return [p for group in groups for p in group["params"]] or list(self._model.parameters())

    def _parameters(self, owned):
        ids = {id(p) for p in owned}
        for layer, module in self._watched.items():
            for name, p in module.named_parameters(recurse=False):
                if id(p) in ids:
                    yield layer, name, p

    def end_step(self) -> dict[tuple[str, str], Row]:
        """Close the step in progress and return it."""
        ended, self._rows = self._rows, {}
        return ended

    def _add_parameter(self, layer: str, kind: str, name: str, tensor: torch.Tensor) -> None:
        self._row(layer, kind).tensors.append(tensor)
        self._row(layer, f"{kind}.{name}").tensors.append(tensor)

    def _row(self, layer: str, kind: str) -> Row:
        return self._rows.setdefault((layer, kind), Row())

    def _on_output(self, layer: str, output: object) -> None:
        if self.is_repeating or not torch.is_grad_enabled():
            return
        for path, tensor in tensors_in(output):
            suffix = f".{path}" if path else ""
            row = self._row(layer, f"out{suffix}")
            if is_opaque(tensor):
                row.is_opaque = True
            else:
                row.tensors.append(tensor.detach().clone())
            if tensor.requires_grad:
                self._await_gradient(layer, f"grad{suffix}", tensor)

    def _await_gradient(self, layer: str, kind: str, tensor: torch.Tensor) -> None:
        row = self._row(layer, kind)
        row.is_awaited = True
        if is_opaque(tensor):
            return
        edge = torch.autograd.graph.get_gradient_edge(tensor)

        penalty = kind.replace("grad", "grad_create_graph", 1)

        def note(gradients):
            gradient = gradients[edge.output_nr]
            if self._rows.get((layer, kind)) is row and gradient is not None:
                target = self._row(layer, penalty) if torch.is_grad_enabled() else row
                target.tensors.append(gradient.detach().clone())

        edge.node.register_prehook(note)


def _has_something_to_show(module: nn.Module) -> bool:
    owns = next(module.parameters(recurse=False), None) is not None
    return owns or not isinstance(module, CONTAINERS)


def is_opaque(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no numbers to read: a transform's, meta, quantized or nested."""
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return is_wrapped or tensor.is_meta or tensor.is_quantized or tensor.is_nested


def _change(parameter: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Return new minus old, exactly; of a half precision in float32, which holds it."""
    new = parameter.detach()
    wide = torch.complex128 if new.is_complex() else torch.float64
    change = new.to(wide) - old.to(wide)
    return change if new.dtype in (torch.float64, torch.complex128) else change.to(_single(wide))


def _single(wide: torch.dtype) -> torch.dtype:
    return torch.complex64 if wide.is_complex else torch.float32


def tensors_in(value: object, path: str = "") -> list[tuple[str, torch.Tensor]]:
    """Return the floating-point and complex tensors of an output, by index, key or field name."""
    if isinstance(value, torch.Tensor):
        return [(path, value)] if value.is_floating_point() or value.is_complex() else []
    if isinstance(value, tuple | list):
        items = list(enumerate(value))
    elif hasattr(value, "items"):
        items = list(value.items())
    else:
        names = getattr(value, "__dataclass_fields__", {}) if not isinstance(value, type) else {}
        items = [(name, getattr(value, name, None)) for name in names]
    return [
        found for key, item in items
        for found in tensors_in(item, f"{path}.{key}" if path else str(key))
    ]  # fmt: skip
