"""A run's messages, as an agent sends them."""

from types import SimpleNamespace

import numpy as np
import pytest

from gradscope.columns import Block
from gradscope.protocol import (
    Event,
    Hello,
    Interventions,
    InterventionState,
    Layer,
    Manifest,
    Message,
    Scalars,
    Step,
    encode,
    pack_layers,
)
from gradscope.protocol.bodies import pack_block
from gradscope.recording import Recorder

LAYERS = (Layer("", "Net", is_watched=False), Layer("fc1", "Linear"), Layer("fc2", "Linear"))


def hello(run: str = "gpt", *, rank: int = 0, pid: int = 41, started_s: float = 1000.0) -> Hello:
    return Hello(
        role="agent", peer=f"{run}-{rank}-{pid}", run=run, rank=rank, pid=pid, host="box",
        user="ann", script="train.py", started_s=started_s, world_size=2,
    )  # fmt: skip


def manifest(run: str = "gpt", *, rank: int = 0, revision: int = 1) -> Manifest:
    return Manifest(
        run=run,
        rank=rank,
        revision=revision,
        model="Net",
        layer_count=len(LAYERS),
        body=pack_layers(LAYERS),
    )


def block(value: float, rows: int = 2) -> Block:
    return Block(
        ("out", "grad"),
        np.arange(1, rows + 1, dtype=np.uint32),
        np.zeros(rows, np.uint32),
        np.zeros(rows, np.uint8),
        {"count": np.full(rows, 8, np.uint64), "sum": np.full(rows, value)},
    )


def step(number: int, run: str = "gpt", *, rank: int = 0, rows: int = 2) -> Step:
    columns, zero, body = pack_block(block(float(number), rows))
    return Step(
        run=run, rank=rank, seq=number, step=number, time_s=float(number), manifest_revision=1,
        kinds=("out", "grad"), rows=rows, columns=columns, zero=zero, body=body,
    )  # fmt: skip


def scalars(first: int, count: int, run: str = "gpt", *, rank: int = 0) -> Scalars:
    steps = tuple(range(first, first + count))
    return Scalars(
        run=run, rank=rank, steps=steps, times_s=tuple(map(float, steps)),
        values={"loss": tuple(1 / (1 + s) for s in steps)},
    )  # fmt: skip


def event(number: int, text: str = "something happened", run: str = "gpt") -> Event:
    return Event(run=run, rank=0, step=number, time_s=0.0, level="info", code="note", text=text)


def interventions(revision: int, number: int, run: str = "gpt") -> Interventions:
    entry = InterventionState(
        id="i1", action="reverse", arguments={"alpha": 1.0}, layers=("fc1",), site="output",
        set_by="ann", active_since=number,
    )  # fmt: skip
    return Interventions(run=run, rank=0, revision=revision, step=number, entries=(entry,))


def record(recorder: Recorder, *messages: Message) -> None:
    for message in messages:
        recorder.add(message, encode(message))  # type: ignore[arg-type]  # the caller gives what is recorded


@pytest.fixture
def make() -> SimpleNamespace:
    """The functions above, since a test file of this layout cannot import its neighbour."""
    return SimpleNamespace(
        hello=hello, manifest=manifest, block=block, step=step, scalars=scalars, event=event,
        interventions=interventions, record=record, layers=LAYERS,
    )  # fmt: skip
