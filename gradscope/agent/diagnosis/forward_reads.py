"""`ForwardReads`: reads inputs, units and variation over the batch while a model runs forward in chosen steps."""

import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from gradscope.agent.diagnosis.tensor_reads import (
    DIGEST_ELEMENTS,
    digest_of,
    is_readable,
    is_regular,
    sampled,
    spread_and_power,
    tensors_of,
    unit_ranges,
    wide,
)
from gradscope.findings.signal_facts import (
    BatchTensor,
    FedLayer,
    LayerOutput,
    LayerUnits,
    LayerUpdates,
    StepSignals,
)
from gradscope.hooks import (
    CallHooks,
    SlotTable,
    find_tensors,
    is_in_backward,
    is_recomputing,
    is_transforming,
)

__all__ = ["ForwardReads"]

_UNIT_ELEMENTS: Final = 1 << 17
_SPREAD_ELEMENTS: Final = 1 << 13
_FED_ELEMENTS: Final = 1 << 14
"""The number of elements that are read of one tensor for units, variation and scale: at most 512 kB as float32."""

_UNITS: Final = 1 << 14
"""Layers with more units are not read unit by unit."""

_TABLES: Final = (nn.Embedding, nn.EmbeddingBag)
"""Modules whose weights are looked up: their input is an index."""

_FEWEST_SAMPLES: Final = 4

_LAYERS: Final = 512
"""The number of layers of which tensors are read in a step."""


@dataclass(slots=True)
class Site:
    """What the hooks need to know about one module."""

    name: str
    is_weighted: bool
    is_relu: bool
    is_norm: bool
    is_leaf: bool
    is_narrow: bool
    units: int
    unit_dim: int


class ForwardReads:
    """Reads from `begin` to `end`. Reads nothing in forwards without gradients and in recomputations.

    guard: runs gradscope's own work and keeps its exceptions away from the training.
    """

    def __init__(self, guard: Callable[[Callable[[], None]], None]) -> None:
        self._guard = guard
        self._hooks: CallHooks[Site] | None = None
        self._seen: dict[str, _Seen] = {}
        self._reset()

    def begin(self, model: nn.Module) -> None:
        """Install the hooks."""
        self._reset()
        table = SlotTable((module, _site(name, module)) for name, module in model.named_modules())
        self._hooks = CallHooks(table, self._enter, self._leave, self._abandon)
        self._hooks.install()

    def end(self, step: int, updates: tuple[LayerUpdates, ...]) -> StepSignals:
        """Remove the hooks and return what was read. Waits for the device."""
        self.remove()
        signals = StepSignals(
            step=step,
            batch=tuple(each.facts() for each in self._batch),
            fed=tuple(fed for each in self._fed if (fed := each.facts()) is not None),
            units=tuple(units for each in self._units if (units := each.facts()) is not None),
            outputs=tuple(out for each in self._outputs if (out := each.facts()) is not None),
            updates=updates,
        )
        self._reset()
        return signals

    def remove(self) -> None:
        """Remove the hooks."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def _reset(self) -> None:
        self._thread = threading.get_ident()
        self._depth = 0
        self._left = _LAYERS
        self._producer: Site | None = None
        self._after_relu: Site | None = None
        self._has_weighted_run = False
        self._given: set[int] = set()
        self._newest_fed: _Fed | None = None
        self._calls: Counter[str] = Counter()
        self._batch: list[_Batch] = []
        self._fed: list[_Fed] = []
        self._units: list[_Units] = []
        self._outputs: list[_Spread] = []

    def _enter(self, _site: Site, args: object) -> None:
        if threading.get_ident() == self._thread:
            if not self._depth:
                self._guard(partial(self._begin_call, args))
            self._depth += 1

    def _begin_call(self, args: object) -> None:
        """Note which data the script gives to the model."""
        self._given = {_storage_of(tensor) for _, tensor in tensors_of(args, {})}
        self._has_weighted_run = False

    def _abandon(self, _site: Site) -> None:
        if threading.get_ident() == self._thread:
            self._depth -= 1

    def _leave(
        self, site: Site, args: Any, kwargs: Mapping[str, Any], output: Any
    ) -> None:  # Any: as in torch
        if threading.get_ident() != self._thread:
            return
        self._depth -= 1
        if not torch.is_grad_enabled() or is_in_backward() or is_recomputing() or is_transforming():
            return
        self._guard(partial(self._read, site, args, kwargs, output))

    def _read(
        self, site: Site, args: Any, kwargs: Mapping[str, Any], output: Any
    ) -> None:  # Any: as above
        if self._newest_fed is not None and site.is_leaf:
            self._newest_fed.is_normalized = site.is_norm
            self._newest_fed = None
        if self._left > 0:
            self._left -= 1
            if site.is_weighted:
                self._read_weighted(site, args[0] if args else kwargs.get("input"), output)
            elif site.is_relu and is_readable(output):
                self._after_relu = self._producer
                self._read_units(self._producer, output, site.name)
        if self._depth == 0:
            self._read_call(site, args, kwargs, output)

    def _read_weighted(self, site: Site, given: object, output: object) -> None:
        if is_readable(given) and isinstance(given, torch.Tensor) and given.is_floating_point():
            if given.grad_fn is not None:
                if self._after_relu is not self._producer:
                    self._read_units(self._producer, given, None)
            elif given.numel() > 1 and (
                not self._has_weighted_run or _storage_of(given) in self._given
            ):
                self._read_fed(site, given)  # otherwise a detached output, or that of a frozen layer
        self._has_weighted_run = True
        self._producer = site
        self._read_spread(site, output, is_final=False)

    def _read_fed(self, site: Site, given: torch.Tensor) -> None:
        dim = site.unit_dim if given.dim() > 1 else 0
        values = wide(sampled(given, _FED_ELEMENTS, keep=dim))
        power = (
            values.square()
            .movedim(dim, -1)
            .reshape(-1, values.shape[dim] if given.dim() > 1 else 1)
            .mean(0)
        )
        most, feature = power.max(0)
        numbers = torch.stack(
            [
                values.mean(),
                values.std(correction=0),
                values.min(),
                values.max(),
                most,
                feature.to(most.dtype),
                power.sum(),
            ]
        )
        self._newest_fed = _Fed(site, given.dtype, len(given), len(power), numbers)
        self._fed.append(self._newest_fed)

    def _read_units(self, producer: Site | None, values: torch.Tensor, relu: str | None) -> None:
        if producer is None or values.dim() < 2 or not values.is_floating_point():
            return
        dim = producer.unit_dim if producer.unit_dim < values.dim() else -1
        units = values.shape[dim]
        if units > _UNITS or units < 2 or (relu is None and units != producer.units):
            return
        sample = sampled(values, max(_UNIT_ELEMENTS, units), keep=dim)
        low, high = unit_ranges(sample, dim)
        names = (producer.name,) if relu is None else (producer.name, relu)
        self._units.append(_Units(names, low, high, sample.numel() // units))

    def _read_spread(self, site: Site, output: object, *, is_final: bool) -> None:
        found = next(iter(find_tensors(output)), None)
        if found is None or not is_readable(found[1]):
            return
        values = found[1]
        if not values.is_floating_point() or values.dim() < 2 or len(values) < _FEWEST_SAMPLES:
            return
        numbers = spread_and_power(sampled(values, _SPREAD_ELEMENTS))
        self._outputs.append(_Spread(site, tuple(values.shape), values.dtype, numbers, is_final))

    def _read_call(
        self, site: Site, args: Any, kwargs: Mapping[str, Any], output: object
    ) -> None:  # Any: as above
        """Read what the script gave to the model, and what it got back."""
        if not site.is_weighted:
            self._read_spread(site, output, is_final=True)
        elif self._outputs and self._outputs[-1].site is site:
            self._outputs[-1].is_final = True
        for path, tensor in tensors_of(args, kwargs):
            if tensor.grad_fn is None:
                self._read_batch(
                    f"argument {path} of {f'`{site.name}`' if site.name else 'the model'}", tensor
                )

    def _read_batch(self, place: str, tensor: torch.Tensor) -> None:
        number = self._calls[place]
        self._calls[place] += 1
        key = f"{place}, call {number}"
        before, base = self._seen.get(key), tensor._base  # noqa: SLF001 - no public name
        is_same = before is not None and (
            before.tensor() is tensor
            or (base is not None and before.base is not None and before.base() is base)
        )
        seen = _Seen(weakref.ref(tensor), None if base is None else weakref.ref(base))
        self._seen[key] = seen
        is_batch = tensor.dim() > 0 and len(tensor) > 1 and tensor.stride(0) != 0
        self._batch.append(
            _Batch(
                place=place,
                dtype=tensor.dtype,
                shape=tuple(tensor.shape),
                sample=sampled(tensor, DIGEST_ELEMENTS).clone(),
                is_same_object=is_same,
                is_batch=is_batch,
                seen=seen,
                digest_before=None if before is None else before.digest,
            )
        )


@dataclass(slots=True)
class _Seen:
    """The tensor at one place in the previous read step."""

    tensor: "weakref.ref[torch.Tensor]"
    base: "weakref.ref[torch.Tensor] | None"
    digest: int | None = None


@dataclass(slots=True)
class _Batch:
    """A tensor given to the model, whose sample is read at the end of the step."""

    place: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    sample: torch.Tensor
    is_same_object: bool
    is_batch: bool
    seen: _Seen
    digest_before: int | None

    def facts(self) -> BatchTensor:
        sample = self.sample.cpu()
        self.seen.digest = digest = digest_of(sample, self.dtype, self.shape)
        return BatchTensor(
            place=self.place,
            dtype=_name_of(self.dtype),
            shape=self.shape,
            digest=digest,
            is_same_object=self.is_same_object,
            is_regular=digest == self.digest_before and is_regular(sample),
            are_samples_equal=bool((sample == sample[:1]).all()) if self.is_batch else None,
        )


@dataclass(slots=True)
class _Fed:
    """The input of a layer that reads data: mean, std, min, max, power and index of a feature, power of all."""

    site: Site
    dtype: torch.dtype
    samples: int
    features: int
    numbers: torch.Tensor
    is_normalized: bool = False

    def facts(self) -> FedLayer | None:
        mean, std, least, most, power, feature, total = self.numbers.tolist()
        if not math.isfinite(total):
            return None
        return FedLayer(
            layer=self.site.name,
            dtype=_name_of(self.dtype),
            samples=self.samples,
            mean=mean,
            std=std,
            min=least,
            max=most,
            features=self.features,
            feature=int(feature),
            feature_rms=math.sqrt(power),
            feature_share=power / total if total else 0.0,
            is_normalized=self.is_normalized,
        )


@dataclass(slots=True)
class _Units:
    """The range of each unit of a layer."""

    layers: tuple[str, ...]
    low: torch.Tensor
    high: torch.Tensor
    samples: int

    def facts(self) -> LayerUnits | None:
        low, high = self.low.tolist(), self.high.tolist()
        if not min(low, default=-1.0) >= 0:  # no ReLU is between, or NaN
            return None
        return LayerUnits(
            layers=self.layers,
            units=len(low),
            dead=frozenset(unit for unit, value in enumerate(high) if value == 0),
            always_on=sum(value > 0 for value in low),
            samples=self.samples,
        )


@dataclass(slots=True)
class _Spread:
    """Two numbers of an output: its variance over the batch, and its mean square."""

    site: Site
    shape: tuple[int, ...]
    dtype: torch.dtype
    numbers: torch.Tensor
    is_final: bool

    def facts(self) -> LayerOutput | None:
        spread, power = self.numbers.tolist()
        if not math.isfinite(power):
            return None
        return LayerOutput(
            layer=self.site.name,
            samples=self.shape[0],
            per_sample=math.prod(self.shape[1:]),
            spread=spread,
            power=power,
            precision=torch.finfo(self.dtype).eps,
            is_final=self.is_final,
            is_narrow=self.site.is_narrow,
        )


def _site(name: str, module: nn.Module) -> Site:
    own = [parameter for parameter in module.parameters(recurse=False) if not is_lazy(parameter)]
    has_weight = any(parameter.dim() > 1 for parameter in own) and not isinstance(module, _TABLES)
    is_container = any(_has_weight(each) for each in module.children()) and not isinstance(
        module, nn.MultiheadAttention
    )
    units = getattr(module, "out_features", getattr(module, "out_channels", 0))
    inputs = getattr(module, "in_features", getattr(module, "in_channels", 0))
    units, inputs = (each if isinstance(each, int) else 0 for each in (units, inputs))
    return Site(
        name=name,
        is_weighted=has_weight and not is_container,
        is_relu=isinstance(module, (nn.ReLU, nn.ReLU6)),
        is_norm="Norm" in type(module).__name__,
        is_leaf=next(module.children(), None) is None,
        is_narrow=0 < units < inputs,
        units=units,
        unit_dim=1 if isinstance(module, _ConvNd) else -1,
    )


def _storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _has_weight(module: nn.Module) -> bool:
    return any(not is_lazy(each) and each.dim() > 1 for each in module.parameters())


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
