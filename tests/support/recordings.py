"""A recording without a training: made of messages with known numbers."""

import sqlite3

import numpy as np

from gradscope.columns import Block
from gradscope.findings import finding as make_finding
from gradscope.protocol import (
    Event,
    Hello,
    Interventions,
    InterventionState,
    Layer,
    Manifest,
    Scalars,
    Step,
    encode,
    pack_layers,
)
from gradscope.protocol.bodies import pack_block
from gradscope.recording import Recorder

__all__ = ["KINDS", "block_of", "damage_second_chunk", "make_recording"]

KINDS = ("out", "grad", "param.weight", "param_grad.weight", "update.weight")
ELEMENTS = 4


def block_of(rms, nonfinite=None):
    """Rows of ELEMENTS numbers. rms: shape (layers, KINDS), NaN where a hook was never called. nonfinite: of `out`."""
    kinds = rms.shape[1]
    layer, kind = np.divmod(np.arange(rms.size, dtype=np.uint32), np.uint32(kinds))
    flat = np.nan_to_num(rms.ravel())
    nan = np.zeros(rms.size, np.uint64)
    nan[::kinds] = 0 if nonfinite is None else nonfinite
    zero = np.zeros(rms.size, np.uint64)
    values = {
        "calls": zero + 1, "count": zero + ELEMENTS, "nan": nan, "posinf": zero, "neginf": zero,
        "sum": np.zeros(rms.size), "sumsq": (ELEMENTS - nan) * flat**2, "min": -flat, "max": flat,
    }  # fmt: skip
    flags = np.where(np.isnan(rms.ravel()), 4, 0).astype(np.uint8)
    return Block(KINDS, layer, kind, flags, values)


def make_recording(
    path, blocks, *, names, run="known", findings=(), interventions=(), reason="done", ranks=1
):
    """Record observed steps, a dict of step to block, with a loss of 1 / (1 + step) in each step up to the last."""
    hello = Hello(
        role="agent",
        peer="p",
        run=run,
        pid=7,
        host="box",
        script="train.py",
        started_s=1e9,
        world_size=ranks,
    )
    layers = tuple(Layer(name=name, type="Linear") for name in names)
    with Recorder(path, hello) as recorder:

        def add(message):
            recorder.add(message, encode(message))

        for rank in range(ranks):
            if rank:
                recorder.add(
                    Hello(role="agent", peer="q", run=run, rank=rank, pid=8, host="box", started_s=1e9),
                    (),
                )
            add(Manifest(run=run, rank=rank, revision=1, model="Net", device="cpu",
                         layer_count=len(layers), body=pack_layers(layers)))  # fmt: skip
            for seq, (step, block) in enumerate(blocks.items()):
                columns, zero, body = pack_block(block)
                add(Step(run=run, rank=rank, seq=seq, step=step, time_s=1e9 + step, manifest_revision=1,
                         kinds=block.kinds, rows=len(block), columns=columns, zero=zero, body=body))  # fmt: skip
        count = max(blocks, default=-1) + 1
        for first in range(0, count, 100):
            steps = tuple(range(first, min(count, first + 100)))
            add(Scalars(run=run, rank=0, steps=steps, times_s=tuple(1e9 + s for s in steps),
                        values={"loss": tuple(1 / (1 + s) for s in steps)}))  # fmt: skip
        for code, step, text, of in findings:
            found = make_finding(code, text, step=step, layers=of)
            add(
                Event(
                    run=run,
                    rank=0,
                    step=step,
                    time_s=1e9 + step,
                    level="error",
                    code=code,
                    text=text,
                    finding=found,
                )
            )
        for revision, (step, entries) in enumerate(interventions, 1):
            states = tuple(
                InterventionState(id=each, action="scale", arguments={"factor": 0.5}, layers=(names[-1],),
                                  site="output", set_by="ann", active_since=step)
                for each in entries
            )  # fmt: skip
            add(Interventions(run=run, rank=0, revision=revision, step=step, entries=states))
        recorder.close(reason=reason)
    assert recorder.failure is None
    return path


def damage_second_chunk(path):
    """Overwrite what 64 steps have in common in the file; return the first and the last of them."""
    connection = sqlite3.connect(path)
    with connection:
        chunk, first, last = connection.execute(
            "SELECT id, first_step, last_step FROM chunk ORDER BY first_step LIMIT 1 OFFSET 1"
        ).fetchone()
        connection.execute("UPDATE chunk SET heads = zeroblob(length(heads)) WHERE id = ?", (chunk,))
    connection.close()
    return first, last
