"""Captured tensors on their way to the viewer that asked: one step's, of at most 16 layers.

The command is acknowledged when the capture is set, with the step in which it captures; the tensors
follow when that step has ended. What is larger than a message is cut along its first dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.agent.commands.queue import Prepared, QueuedCommand
from gradscope.agent.inspection.capture import Capture, CapturedTensor, Captures, check_what
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.names import match_names
from gradscope.protocol import Captured, Command, Hello, Message

__all__ = ["CaptureUpload"]

_LIMIT_BYTES: Final = 16_000_000
_LAYERS: Final = 16
_TENSORS: Final = 16
_AT_ONCE: Final = 4
_AS_IT_IS: Final = frozenset({"float16", "float32", "float64", "complex64", "complex128"})


@dataclass(frozen=True, slots=True)
class _Asked:
    command: bytes
    capture: Capture
    step: int


class CaptureUpload(StepPlugin):
    """Obeys the command `capture`; to be added to the engine behind `captures`.

    `send` lays a message on the publisher's queue. Only rank 0 sends: commands come to it.
    """

    name = "sending what was captured"

    def __init__(
        self,
        captures: Captures,
        hello: Hello,
        names: Callable[[], Sequence[str]],
        send: Callable[[Callable[[], Message]], None],
    ) -> None:
        self._captures = captures
        self._hello = hello
        self._names = names
        self._send = send
        self._asked: list[_Asked] = []

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return how to prepare the command."""
        return {"capture": self._prepare}

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - a part's signature
        """Send what the step has left for those who asked."""
        asked, self._asked = self._asked, []
        for each in asked:
            each.capture.remove()
            self._send_all(each)
        self.rest_unless(lambda: self._asked)

    def close(self) -> None:
        """Forget who asked."""
        self._asked.clear()

    def _prepare(self, command: Command) -> Prepared:
        what = check_what(command.what or "activation")
        layers = match_names(command.layers, self._names())
        if len(layers) > _LAYERS:
            raise UsageError(f"at most {_LAYERS} layers are captured at once, got {len(layers)}")

        def apply(turn: QueuedCommand) -> None:
            if self._hello.rank == 0:
                if len(self._asked) >= _AT_ONCE:
                    raise UsageError(f"{_AT_ONCE} captures wait for this step already; ask again")
                capture = self._captures.add(layers, what, every=1, keep=1)
                self._asked.append(_Asked(command.id, capture, turn.step))
                self.wake()
            turn.done(turn.step, "", tuple(layers))

        return apply

    def _send_all(self, asked: _Asked) -> None:
        tensors = asked.capture.tensors()[:_TENSORS]
        notes = list(asked.capture.skipped)
        if not tensors:
            notes.append(
                f"nothing was captured in step {asked.step}: the layer was not called there, is "
                "compiled, or its output takes no gradient"
            )
            self._send(partial(self._empty, asked, "; ".join(notes)))
        for index, tensor in enumerate(tensors):
            self._send(partial(self._message, asked.command, tensor, index, len(tensors)))

    def _empty(self, asked: _Asked, note: str) -> Message:
        return Captured(
            command=asked.command, run=self._hello.run, rank=self._hello.rank, step=asked.step,
            layer=asked.capture.layers[0], what=asked.capture.what, count=0, note=note,
        )  # fmt: skip

    def _message(self, command: bytes, captured: CapturedTensor, index: int, count: int) -> Message:
        tensor, note = _cut(captured.tensor)
        dtype, numbers = _as_numbers(tensor)
        return Captured(
            command=command,
            run=self._hello.run,
            rank=self._hello.rank,
            step=captured.step,
            layer=captured.layer,
            what=captured.what,
            name=captured.name,
            index=index,
            count=count,
            dtype=dtype,
            shape=tuple(tensor.shape),
            full_shape=tuple(captured.tensor.shape),
            note=note,
            body=numbers.tobytes(),
        )


def _cut(tensor: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Return as much of a tensor, along its first dimension, as a message may hold, and say so."""
    if tensor.nbytes <= _LIMIT_BYTES:
        return tensor, ""
    rows = _LIMIT_BYTES * len(tensor) // tensor.nbytes
    flat = tensor if rows else tensor.reshape(-1)
    rows = rows or _LIMIT_BYTES // tensor.element_size()
    what = "rows" if flat is tensor else "elements"
    return flat[:rows], f"the first {rows} of {len(flat)} {what}: a message holds {_LIMIT_BYTES} bytes"


def _as_numbers(tensor: torch.Tensor) -> tuple[str, NDArray[np.generic]]:
    """Return dtype and elements; what NumPy has not goes as float32, bfloat16 as its bits."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype == "bfloat16":
        return dtype, tensor.contiguous().view(torch.int16).numpy()
    if dtype not in _AS_IT_IS:
        dtype, tensor = "float32", tensor.float()
    return dtype, tensor.contiguous().numpy()
