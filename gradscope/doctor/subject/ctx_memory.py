"""Measures how long tensors that are attributes of ctx stay alive, and how many bytes they hold."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

from gradscope.doctor.subject.instrument import size_of
from gradscope.doctor.subject.run import weights_like
from gradscope.doctor.subject.subject import Subject
from gradscope.hooks import find_nodes

__all__ = ["measure_ctx_memory"]

_WeakTensors: TypeAlias = list[tuple["weakref.ref[Tensor]", int]]


def measure_ctx_memory(subject: Subject) -> dict[str, str]:
    """Return how many bytes are alive after backward, and a text on how many outlive the output.

    The subject must run without an exception. Python's garbage collector is disabled during the measurement.
    """
    with _collector_off():
        leaves = [v.value.clone().requires_grad_(v.is_needed) for v in subject.leaves]
        outputs = [y for y in subject([leaf.clone() for leaf in leaves]) if y.requires_grad]
        tensors = _tensors_on_ctx(outputs)
        torch.autograd.backward(outputs, [weights_like(y.detach()) for y in outputs])
        after_backward_bytes = _alive_bytes(tensors)
        del outputs, leaves
        after_drop_bytes = _alive_bytes(tensors)
    gc.collect()
    found: dict[str, str] = {}
    if after_backward_bytes:
        found["after_backward"] = (
            f"{after_backward_bytes} bytes stay on ctx as long as an output lives; save_for_backward would "
            "have freed them"
        )
    if after_drop_bytes:
        end = "never freed" if _alive_bytes(tensors) else "freed only by the garbage collector"
        found["leak"] = f"{after_drop_bytes} bytes outlive the output, and are {end}"
    return found


def _tensors_on_ctx(outputs: Sequence[Tensor]) -> _WeakTensors:
    found: dict[int, Tensor] = {}
    for node in find_nodes(outputs):
        if hasattr(type(node), "_forward_cls"):
            attributes: dict[str, Any] = vars(node)
            found.update({id(t): t for t in _pytree.tree_leaves(attributes) if isinstance(t, Tensor)})
    return [(weakref.ref(t), size_of(t)) for t in found.values()]


def _alive_bytes(tensors: _WeakTensors) -> int:
    return sum(size_bytes for reference, size_bytes in tensors if reference() is not None)


@contextmanager
def _collector_off() -> Iterator[None]:
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()
