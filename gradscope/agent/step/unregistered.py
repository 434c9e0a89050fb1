"""Parameters that a model uses but does not register, because they are in a plain list, tuple or dict."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import nn

__all__ = ["unregistered_parameters"]

_ITEMS = 1_000
"""Maximum number of items to search in each list, tuple or dict."""

_OF_TORCH = frozenset(vars(nn.Module()))
"""The attributes of every module, in which torch itself keeps parameters, modules and hooks."""


def unregistered_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return trainable tensors that a module holds in a plain container, by place: `layers[0].weight`.

    `model.parameters()` does not contain them, and no forward hook is called for a model without registered layers.
    """
    registered = {id(p) for p in model.parameters()}
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        for attribute, value in list(vars(module).items()):
            if attribute not in _OF_TORCH:
                place = f"{name}.{attribute}" if name else attribute
                for path, tensor in _trainable_in(value, place, depth=2):
                    if id(tensor) not in registered:
                        found.setdefault(path, tensor)
    return found


def _trainable_in(value: object, place: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the trainable tensors of a container and of the modules and containers in it."""
    if isinstance(value, dict):
        pairs = [(f"{place}[{key!r}]", item) for key, item in islice(value.items(), _ITEMS)]
    elif isinstance(value, list | tuple):
        pairs = [(f"{place}[{i}]", item) for i, item in enumerate(islice(value, _ITEMS))]
    else:
        return
    for path, item in pairs:
        if isinstance(item, nn.Module):
            yield from ((f"{path}.{n}", p) for n, p in item.named_parameters() if p.requires_grad)
        elif isinstance(item, torch.Tensor):
            if item.requires_grad and item.is_leaf:
                yield path, item
        elif depth > 1:
            yield from _trainable_in(item, path, depth - 1)
