"""Finds the batch dim of a subject: rows computed alone must equal the same rows of the whole batch."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradscope.doctor.subject.subject import Subject

__all__ = ["with_first_rows"]


def with_first_rows(subject: Subject, count: int) -> Subject | None:
    """Return the subject on the first `count` rows of its batch; None if no batch dim is found.

    Inputs form a batch if forward on their first rows alone gives the first rows of each output. Lookup tables,
    weights and reductions over the batch do not pass this test.
    """
    for positions in _candidate_positions(subject):
        if _is_batch(subject, positions):
            return _with_rows(subject, positions, count)
    return None


def _candidate_positions(subject: Subject) -> Iterator[tuple[int, ...]]:
    values = _tensor_arguments(subject)
    sizes = {i: v.shape[0] for i, v in values.items() if v.dim() > 0 and v.shape[0] > 1}
    seen = set()
    for size in sizes.values():
        together = tuple(i for i, s in sizes.items() if s == size)
        for positions in (together, *((i,) for i in together)):
            if positions not in seen:
                seen.add(positions)
                yield positions


def _is_batch(subject: Subject, positions: Sequence[int]) -> bool:
    rows = _tensor_arguments(subject)[positions[0]].shape[0]
    tried = 2 if rows > 2 else 1  # two rows, because a function may drop the dim of one row
    try:
        with torch.no_grad():
            whole = subject([leaf.value.clone() for leaf in subject.leaves])
            few = _with_rows(subject, positions, tried)
            first = few([leaf.value.clone() for leaf in few.leaves])
    except Exception:  # noqa: BLE001 - after any exception, these inputs do not form a batch
        return False
    return bool(whole) and all(
        y.dim() > 0
        and y.shape[0] == rows
        and y[:tried].numel() == f.numel()
        and torch.allclose(y[:tried], f.reshape(y[:tried].shape), rtol=1e-3, atol=1e-5)
        for y, f in zip(whole, first, strict=True)
    )


def _tensor_arguments(subject: Subject) -> dict[int, Tensor]:
    """Return all tensor arguments by position, without a module's parameters."""
    values = {i: a for i, a in enumerate(subject.arguments) if isinstance(a, Tensor)}
    values.update({leaf.position: leaf.value for leaf in subject.leaves})
    return {i: v for i, v in values.items() if i < subject.input_count}


def _with_rows(subject: Subject, positions: Sequence[int], count: int) -> Subject:
    arguments = tuple(
        a[:count] if i in positions and isinstance(a, Tensor) else a
        for i, a in enumerate(subject.arguments)
    )
    values = [
        leaf.value[:count] if leaf.position in positions else leaf.value for leaf in subject.leaves
    ]
    return replace(subject, arguments=arguments).with_values(values)
