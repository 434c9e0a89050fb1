"""Comparing bit for bit what two runs kept, and statistics with the reference's numbers."""

import math

import numpy as np
import torch

from gradscope.columns import Stats
from trials.reference import Numbers

__all__ = ["difference", "wrong_bins", "wrong_numbers"]

COUNTS = ("calls", "count", "nan", "posinf", "neginf", "zero", "subnormal")


def difference(a: object, b: object) -> str:
    """Say in what two kept values differ; empty where they are the same bit for bit."""
    if type(a) is not type(b) and not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return f"{type(a).__name__} against {type(b).__name__}"
    if isinstance(a, torch.Tensor):
        return _tensor_difference(a, b)
    if isinstance(a, dict):
        keys = (
            f"keys {sorted(map(str, a))} against {sorted(map(str, b))}" if a.keys() != b.keys() else ""
        )
        return keys or _first(difference(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        lengths = f"{len(a)} against {len(b)} items" if len(a) != len(b) else ""
        return lengths or _first(difference(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return "" if a.tobytes() == b.tobytes() else "arrays differ"
    return _plain_difference(a, b)


def _plain_difference(a: object, b: object) -> str:
    if isinstance(a, float) and math.isnan(a) and math.isnan(b):
        return ""
    is_plain = isinstance(a, str | int | float | bytes | bool | torch.Size | torch.dtype | type(None))
    return "" if not is_plain or a == b else f"{a!r} against {b!r}"


def _first(differences) -> str:
    return next((text for text in differences if text), "")


def _tensor_difference(a: torch.Tensor, b: torch.Tensor) -> str:
    kinds = [(t.dtype, t.layout, tuple(t.shape) if not t.is_nested else None, t.device) for t in (a, b)]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} against {kinds[1]}"
    if a.is_nested:
        return _first(_tensor_difference(x, y) for x, y in zip(a.unbind(), b.unbind(), strict=True))
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    if a.is_meta or _bytes(a) == _bytes(b):
        return ""
    return (
        f"tensors of shape {tuple(a.shape)} differ, at most by {(a.double() - b.double()).abs().max()}"
    )


def _bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def wrong_numbers(stats: Stats, numbers: Numbers, *, is_rounded: bool = False) -> list[str]:
    """Return what is wrong in a row: counts must be equal, sums within float64's rounding.

    is_rounded: the tensor itself may be rounded to float32 in another order (a magnitude, a change).
    """
    wrong = [
        f"{name} {getattr(stats, name)} for {getattr(numbers, name)}" for name in COUNTS
        if getattr(stats, name) != getattr(numbers, name)
        and not (is_rounded and name in ("zero", "subnormal"))
    ]  # fmt: skip
    loose = 1e-6 if is_rounded else 1e-11
    scale = numbers.rms if math.isfinite(numbers.rms) else 0.0
    allowed = {
        "min": (1e-6 if is_rounded else 0.0) * abs(numbers.min),
        "max": (1e-6 if is_rounded else 0.0) * abs(numbers.max),
        "mean": loose * scale,
        "norm": loose * numbers.norm,
        "rms": loose * scale,
    }
    wrong += [
        f"{name} {getattr(stats, name)} for {getattr(numbers, name)}" for name, limit in allowed.items()
        if not _is_near(getattr(stats, name), getattr(numbers, name), limit)
    ]  # fmt: skip
    if not _is_near(stats.std**2, numbers.std**2, (loose + 1e-11) * scale**2):
        wrong.append(f"std {stats.std} for {numbers.std}")
    return wrong


def wrong_bins(stats: Stats, numbers: Numbers, *, is_shifted: bool) -> list[str]:
    """Return what is wrong in the exponent histogram.

    is_shifted: the tensor is stored multiplied by a power of two that only the run knows.
    """
    wanted = np.array(numbers.bins).reshape(2, 64)
    shifts = range(-32, 33) if is_shifted else (0,)
    if any(stats.histogram == tuple(np.roll(wanted, by, axis=1).ravel().tolist()) for by in shifts):
        return []
    return [f"histogram {stats.histogram} for {numbers.bins}"]


def _is_near(got: float, wanted: float, limit: float) -> bool:
    if math.isnan(wanted) or math.isinf(wanted):
        return got == wanted or (math.isnan(got) and math.isnan(wanted))
    return abs(got - wanted) <= limit
