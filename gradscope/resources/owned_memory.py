"""The bytes that layers own in addition to activations: parameters, gradients, optimizer state, buffers.

Each storage is counted once. Shared weights count for the first layer that has them.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.hooks import LayerInfo, gradient_of
from gradscope.resources.autograd_graph import storages_of, tensors_in

__all__ = ["OwnedMemory"]

_Bytes = Counter[int]


class OwnedMemory:
    """Sums the bytes of a model's layers by layer index. The modules are held weakly."""

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        self._modules = [(layer.index, weakref.ref(layer.module)) for layer in layers]

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield all parameters and buffers."""
        for _, module in self._alive():
            yield from _parameters(module)
            yield from _buffers(module)

    def parameters(self) -> _Bytes:
        """Return the bytes of parameters."""
        return self._sum(_parameters)

    def buffers(self) -> _Bytes:
        """Return the bytes of buffers."""
        return self._sum(_buffers)

    def gradients(self) -> _Bytes:
        """Return the bytes of the gradients that exist now."""
        return self._sum(
            lambda module: (
                gradient
                for parameter in _parameters(module)
                if (gradient := gradient_of(parameter)) is not None
            )
        )

    def optimizer_state(self, optimizers: Iterable[Optimizer]) -> _Bytes:
        """Return the bytes of the optimizers' state for each layer's parameters."""
        states = [optimizer.state for optimizer in optimizers]

        def state_of(module: nn.Module) -> Iterator[torch.Tensor]:
            for parameter in _parameters(module):
                for state in states:
                    if parameter in state:
                        yield from tensors_in(state[parameter])

        return self._sum(state_of)

    def _alive(self) -> Iterator[tuple[int, nn.Module]]:
        for index, reference in self._modules:
            module = reference()
            if module is not None:
                yield index, module

    def _sum(self, tensors_of: Callable[[nn.Module], Iterable[torch.Tensor]]) -> _Bytes:
        total: _Bytes = Counter()
        seen: set[int] = set()
        for index, module in self._alive():
            for tensor in tensors_of(module):
                for storage in storages_of(tensor):
                    if storage.key not in seen:
                        seen.add(storage.key)
                        total[index] += storage.size_bytes
        return total


def _parameters(module: nn.Module) -> Iterator[torch.Tensor]:
    return (p for p in module._parameters.values() if p is not None)  # noqa: SLF001 - far faster than parameters()


def _buffers(module: nn.Module) -> Iterator[torch.Tensor]:
    return (b for b in module._buffers.values() if b is not None)  # noqa: SLF001 - far faster than buffers()
