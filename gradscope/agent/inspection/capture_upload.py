"""Uploads captured tensors to the viewer that requested them: one step, at most 16 layers.

The command is acknowledged, with the step number, when the capture has been set. The tensors are sent
after that step. A tensor larger than a message is truncated along its first dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.agent.commands.queue import Boundary, Prepared
from gradscope.agent.flight_recorder.recorder import FlightRecorder
from gradscope.agent.inspection.capture import Capture, CapturedTensor, Captures, check_what
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.names import match_names
from gradscope.paths import recordings_dir
from gradscope.protocol import Captured, Command, Message

__all__ = ["CaptureUpload"]

_LIMIT_BYTES: Final = 16_000_000
_LAYERS: Final = 16
_TENSORS: Final = 16
_AT_ONCE: Final = 4
_NUMPY_DTYPES: Final = frozenset({"float16", "float32", "float64", "complex64", "complex128"})


@dataclass(frozen=True, slots=True)
class _Request:
    command: bytes
    capture: Capture
    step: int


class CaptureUpload(StepPlugin):
    """Handles the command `capture`. Add it to the engine after `captures`.

    `send` puts a message into the publisher's queue. Only rank 0 sends tensors, because it receives the
    commands.
    """

    name = "the upload of captures"

    def __init__(
        self, run: RunContext, engine: StepEngine, captures: Captures, recorder: FlightRecorder
    ) -> None:
        self._run = run
        self._engine = engine
        self._captures = captures
        self._recorder = recorder
        self._hello = run.hello
        self._requests: list[_Request] = []

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return a dict from the action to the function that validates its command."""
        return {"capture": self._prepare}

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if a captured tensor must be sent."""
        return step if self._requests else None

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - the signature of a plugin
        """Send the tensors of the step to the viewers that requested them."""
        requests, self._requests = self._requests, []
        for each in requests:
            each.capture.remove()
            self._send_all(each)

    def close(self) -> None:
        """Drop all requests."""
        self._requests.clear()

    def _prepare(self, command: Command) -> Prepared:
        if command.what == "fault":
            return self._save_fault
        what = check_what(command.what or "activation")
        layers = match_names(command.layers, self._engine.tracker.names)
        if len(layers) > _LAYERS:
            raise UsageError(
                f"expected at most {_LAYERS} layers in one capture, got {len(layers)}; choose fewer"
            )

        def apply(command_slot: Boundary) -> None:
            if self._hello.rank == 0:
                if len(self._requests) >= _AT_ONCE:
                    raise UsageError(
                        f"{_AT_ONCE} captures of this step are pending already; try again later"
                    )
                capture = self._captures.add(layers, what, every=1, keep=1)
                self._requests.append(_Request(command.id, capture, command_slot.step))
                self._run.plan_again()
            command_slot.done(command_slot.step, "", tuple(layers))

        return apply

    def _save_fault(self, command_slot: Boundary) -> None:
        """Save the newest NaN next to the recordings: a viewer does not choose where the training writes."""
        path = recordings_dir() / f"{self._hello.run}.fault.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._recorder.save(path)
        command_slot.done(command_slot.step, str(path))

    def _send_all(self, request: _Request) -> None:
        tensors = request.capture.tensors()[:_TENSORS]
        notes = list(request.capture.skipped)
        if not tensors:
            notes.append(
                f"nothing was captured in step {request.step}: the layer was not called in it, is "
                "compiled, or its output does not require grad"
            )
            self._run.publisher.put_and_send(partial(self._empty, request, "; ".join(notes)))
        for index, tensor in enumerate(tensors):
            self._run.publisher.put_and_send(
                partial(self._message, request.command, tensor, index, len(tensors))
            )

    def _empty(self, request: _Request, note: str) -> Message:
        return Captured(
            command=request.command, run=self._hello.run, rank=self._hello.rank, step=request.step,
            layer=request.capture.layers[0], what=request.capture.what, count=0, note=note,
        )  # fmt: skip

    def _message(self, command: bytes, captured: CapturedTensor, index: int, count: int) -> Message:
        tensor, note = _truncated(captured.tensor)
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


def _truncated(tensor: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Return the leading part of a tensor that fits into a message, and a note if it was truncated."""
    if tensor.nbytes <= _LIMIT_BYTES:
        return tensor, ""
    rows = _LIMIT_BYTES * len(tensor) // tensor.nbytes
    flat = tensor if rows else tensor.reshape(-1)
    rows = rows or _LIMIT_BYTES // tensor.element_size()
    what = "rows" if flat is tensor else "elements"
    return flat[:rows], f"the first {rows} of {len(flat)} {what}: a message holds {_LIMIT_BYTES} bytes"


def _as_numbers(tensor: torch.Tensor) -> tuple[str, NDArray[np.generic]]:
    """Return dtype and elements: bfloat16 as its bits, other dtypes that NumPy lacks as float32."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype == "bfloat16":
        return dtype, tensor.contiguous().view(torch.int16).numpy()
    if dtype not in _NUMPY_DTYPES:
        dtype, tensor = "float32", tensor.float()
    return dtype, tensor.contiguous().numpy()
