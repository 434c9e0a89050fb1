"""`gradscope capture`: prints whole tensors of a layer as pictures with statistics, and saves them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.cli.connection import connect_to
from gradscope.cli.output import print_json, print_lines, print_result, table_lines
from gradscope.client import CapturedArray
from gradscope.client.tensor_art import picture_lines
from gradscope.errors import UsageError
from gradscope.names import counted

__all__ = ["capture", "capture_fault"]

_CHANNELS = 8
_HEIGHT = 16


def capture(
    run: str, layer: str, what: str, save: Path | None, *, timeout_s: float, as_json: bool
) -> None:
    """Capture tensors of the next step; print them, and save them if a file is given."""
    if save is not None and save.suffix not in (".npy", ".safetensors"):
        raise UsageError(f"expected a --save path that ends in .npy or .safetensors, got {save.name!r}")
    with connect_to(run) as client:
        found = client.capture(layer, what, timeout_s=timeout_s)
    if not as_json:
        for captured in found:
            print_lines(*_describe_capture(captured))
    saved = [] if save is None else [str(path) for path in _save_captures(found, save)]
    if as_json:
        print_json({"run": run, "tensors": [_plain(each) for each in found], "saved": saved})
    else:
        print_lines(*(f"saved {path}" for path in saved))


def capture_fault(run: str, *, timeout_s: float, as_json: bool) -> None:
    """Save what reproduces the newest NaN of a run, and print how to replay it."""
    with connect_to(run) as client:
        path = client.save_fault(timeout_s=timeout_s)
    print_result(
        {"run": run, "saved": [path]},
        as_json,
        f"saved {path}",
        f"reproduce it: python -m gradscope.replay {path} script.py:make_model",
    )


def _describe_capture(captured: CapturedArray) -> list[str]:
    shape = " x ".join(map(str, captured.array.shape)) or "scalar"
    name = ".".join(part for part in (captured.layer, captured.name) if part)
    head = (
        f"{captured.what} of {name or 'the model'} in step {captured.step}: {shape}, {captured.dtype}"
    )
    lines = [head, *([captured.note] if captured.note else [])]
    if not captured.array.size:
        return lines
    width = min(shutil.get_terminal_size().columns, 100)
    lines += picture_lines(captured.array, width, _HEIGHT, is_weight=captured.what == "param_grad")
    return [*lines, *_channel_lines(captured)]


def _plain(captured: CapturedArray) -> dict[str, Any]:  # Any: what JSON takes
    values = np.abs(captured.array) if np.iscomplexobj(captured.array) else captured.array
    channels = captured.channels() if values.size else None
    return {
        "step": captured.step,
        "layer": captured.layer,
        "what": captured.what,
        "name": captured.name,
        "dtype": captured.dtype,
        "shape": captured.array.shape,
        "full_shape": captured.full_shape,
        "note": captured.note,
        "mean": float(values.mean(dtype=np.float64)) if channels else None,
        "std": float(values.std(dtype=np.float64)) if channels else None,
        "absmax": float(channels.absmax.max()) if channels else None,
        "channels": len(channels.mean) if channels else 0,
        "zero_channels": channels.dead if channels else 0,
    }


def _channel_lines(captured: CapturedArray) -> list[str]:
    """Return a table of the channels with the largest magnitudes."""
    channels = captured.channels()
    order = np.argsort(-np.nan_to_num(channels.absmax, nan=np.inf))[:_CHANNELS]
    rows = [
        (
            str(i),
            f"{channels.mean[i]:.3g}",
            f"{channels.std[i]:.3g}",
            f"{channels.absmax[i]:.3g}",
            f"{channels.zero_fraction[i]:.0%}",
        )
        for i in order.tolist()
    ]
    table = table_lines(("channel", "mean", "std", "|max|", "zero"), rows)
    number = counted(len(channels.mean), "channel")
    rest = f"of {number} along dimension {channels.axis}, {channels.dead} are all zero"
    return [*table, rest]


def _save_captures(found: Sequence[CapturedArray], save: Path) -> list[Path]:
    if len(found) == 1:
        return [found[0].save(save)]
    names = [".".join(filter(None, (each.layer, each.name, str(i)))) for i, each in enumerate(found)]
    return [
        each.save(save.with_name(f"{save.stem}.{name}{save.suffix}"))
        for each, name in zip(found, names, strict=True)
    ]
