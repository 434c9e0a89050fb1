"""`ForwardRecord`: what is kept of one forward of the model until the optimizer has stepped."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradscope.agent.flight_recorder.isolation import RandomState
from gradscope.agent.flight_recorder.operations import widened
from gradscope.agent.flight_recorder.origin import Origin
from gradscope.agent.flight_recorder.source import SourceLine

__all__ = ["ForwardRecord", "enabled_autocast", "tensors_of", "versions_of"]


@dataclass(slots=True)
class ForwardRecord:
    """References to the inputs of a forward, the random state before it, and the gradients at its output.

    versions: of the tensors in `args` and `kwargs`, before the forward. gradients: by place in the output.
    is_output_nan: None if the output was not checked.
    """

    step: int
    module: weakref.ref[nn.Module]
    args: tuple[Any, ...]  # Any: a module may take any arguments
    random: RandomState
    versions: list[int]
    autocast: list[tuple[str, torch.dtype]]
    called_at: tuple[Any, int] | None  # Any: a code object
    is_training: bool
    parameter_version: int = -1
    first_node: int = 0
    """The sequence number of the first graph node of this forward."""
    end_node: int = 0
    """That of the first node after it."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    gradients: dict[int, torch.Tensor] = field(default_factory=dict)
    is_output_nan: bool | None = None
    has_bad_gradient: bool = False
    """The gradient that arrived at the output is not finite."""
    too_large: bool = False
    """A gradient at the output was not kept because of its size."""
    loss: Origin | None = None
    has_returned: bool = False

    def forget(self) -> None:
        """Drop all references to tensors; hooks on the output may keep the record itself."""
        self.args, self.kwargs, self.gradients = (), {}, {}

    def check_gradients(self) -> None:
        """Check the gradients at the output, whatever their size."""
        self.has_bad_gradient |= any(
            not bool(torch.isfinite(widened(each)).all()) for each in self.gradients.values()
        )

    @property
    def size_bytes(self) -> int:
        """The size of the inputs."""
        return sum(each.numel() * each.element_size() for each in tensors_of((self.args, self.kwargs)))

    @property
    def is_finished(self) -> bool:
        """Whether a gradient has arrived at the output."""
        return bool(self.gradients) or self.too_large

    def line(self) -> SourceLine | None:
        """Return the line that called the model."""
        return None if self.called_at is None else SourceLine.of(*self.called_at)

    @property
    def was_written_to(self) -> bool:
        """Whether the script has changed an input in place since the forward."""
        return versions_of((self.args, self.kwargs)) != self.versions


def versions_of(value: object) -> list[int]:
    """Return torch's counts of changes of the tensors in a structure."""
    if (
        type(value) is tuple and len(value) == 1 and type(value[0]) is torch.Tensor
    ):  # most inputs; faster
        return [] if value[0].is_inference() else [value[0]._version]  # noqa: SLF001 - no public name
    return [each._version for each in tensors_of(value) if not each.is_inference()]  # noqa: SLF001 - as above


def tensors_of(value: object, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested lists, tuples and dicts, of all dtypes."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth < 8 and isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each, depth + 1)
    elif depth < 8 and isinstance(value, dict):
        for each in value.values():
            yield from tensors_of(each, depth + 1)


def enabled_autocast() -> list[tuple[str, torch.dtype]]:
    """Return the kinds of device under autocast, with its dtype."""
    if not torch._C._is_any_autocast_enabled():  # noqa: SLF001 - no public name, and fast
        return []
    return [
        (device, torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    ]
