"""Notes on the inputs of an examination: which gradients are examined, and which parts are not examined."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.utils import _pytree

from gradscope.doctor.subject.subject import Subject, is_strided

__all__ = ["notes_on"]


def notes_on(subject: Subject, inputs: Sequence[object]) -> list[str]:
    """Return the notes on the inputs, and on parts of the Functions that are not examined."""
    return [
        *_notes_on_inputs(subject, inputs),
        *(n for f in subject.functions for n in _notes_on_function(f)),
    ]


def _notes_on_inputs(subject: Subject, inputs: Sequence[object]) -> Iterator[str]:
    tensors = [t for t in _pytree.tree_leaves(list(inputs)) if isinstance(t, Tensor)]
    if not any(tensor.requires_grad for tensor in tensors):
        names = ", ".join(leaf.name for leaf in subject.leaves if leaf.position < len(inputs))
        yield f"no input requires a gradient: examined as if all did that can have one ({names})"
    if any(_has_tangent(tensor) for tensor in tensors):
        yield "an input carries a tangent of forward mode, which is ignored: only values are examined"
    if any(tensor.is_floating_point() and not is_strided(tensor) for tensor in tensors):
        yield "gradients of sparse and nested inputs are not examined: pass a function of their values"
    nested = [x for x in inputs if not isinstance(x, Tensor) and _has_tensors(x)]
    if nested:
        yield "tensors inside lists and dicts are passed on, and their gradients are not examined"


def _has_tangent(tensor: Tensor) -> bool:
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return dual.tangent is not None


def _has_tensors(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in _pytree.tree_leaves(value))


def _notes_on_function(function: type[Function]) -> Iterator[str]:
    if function.jvp is not Function.jvp:
        yield f"{function.__name__} defines jvp: it is compared if gradcheck runs, see step 5"
    if function.generate_vmap_rule or function.vmap is not Function.vmap:
        yield f"{function.__name__} has a vmap rule, which is not examined"
