"""What tensors on ctx cost, measured: bytes alive after backward, and after the output is gone."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.run import weights_like
from gradscope.doctor.subject.subject import find_nodes

__all__ = ["measure_leak"]

_Watched: TypeAlias = list[tuple["weakref.ref[Tensor]", int]]


def measure_leak(exam: Examination) -> Iterator[str]:
    """Yield one line for each moment: after backward, and after the output has been dropped.

    Nothing is said where the function raises. Python's garbage collector waits while this is measured.
    """
    if exam.given.failure is not None or not exam.given.is_connected:
        return
    with _collector_off():
        leaves = [v.value.clone().requires_grad_(v.is_needed) for v in exam.subject.leaves]
        outputs = [y for y in exam.subject([leaf.clone() for leaf in leaves]) if y.requires_grad]
        watched = _watched(outputs)
        torch.autograd.backward(outputs, [weights_like(y.detach()) for y in outputs])
        after_backward = _alive(watched)
        del outputs, leaves
        after_drop = _alive(watched)
    gc.collect()
    for_ever = _alive(watched)
    if after_backward:
        yield (
            f"after backward {after_backward} bytes stay on ctx as long as an output lives; what "
            "save_for_backward keeps is free by then"
        )
    if after_drop:
        end = "never freed" if for_ever else "freed only by the garbage collector"
        yield f"leak: {after_drop} bytes outlive the output, and are {end}"


def _watched(outputs: Sequence[Tensor]) -> _Watched:
    """Return a weak reference to each tensor that is an attribute of a custom Function's ctx."""
    found: dict[int, Tensor] = {}
    for node in find_nodes(outputs):
        if hasattr(type(node), "_forward_cls"):
            kept: dict[str, Any] = vars(node)
            found.update({id(t): t for t in _pytree.tree_leaves(kept) if isinstance(t, Tensor)})
    return [(weakref.ref(t), t.nbytes) for t in found.values()]


def _alive(watched: _Watched) -> int:
    return sum(size for reference, size in watched if reference() is not None)


@contextmanager
def _collector_off() -> Iterator[None]:
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()
