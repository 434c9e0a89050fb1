"""A viewer without gradscope: pyzmq, msgpack, and the specification in gradscope/protocol/README.md.

    python examples/third_party_viewer.py [RUN]

Shows the norm of each layer's gradient and the rms of its output, until the run ends. Default: the first live run.
"""

import math
import os
import struct
import sys
import time
import uuid

import msgpack
import zmq

CODES = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f4": "f", "f8": "d"}


def columns_of(step, body):
    """Return the arrays of a step by name. One that is missing was not measured."""
    found, at = dict.fromkeys(step.get("zero", ()), (0,) * step["rows"]), 0
    for name, code in step["columns"]:
        form = f"<{step['rows']}{CODES[code]}"
        found[name] = struct.unpack_from(form, body, at)
        at += struct.calcsize(form)
    return found


def quantity_of(rows, kind, quantity):
    """Return `norm` or `rms` over the rows of a kind (out, out.0, ...) as text; "-" if there is none."""
    mine = [row for name, row in rows if name.split(".")[0] == kind and not row["flags"] & 4]
    count = sum(row["count"] - row["nan"] - row["posinf"] - row["neginf"] for row in mine)
    sumsq = math.fsum(row["sumsq"] for row in mine)
    return f"{math.sqrt(sumsq / (count if quantity == 'rms' else 1)):.6g}" if count else "-"


def print_table(step, body, layers):
    """Print one line for each layer that has rows in the step."""
    columns, by_layer = columns_of(step, body), {}
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        by_layer.setdefault(row["layer"], []).append((step["kinds"][row["kind"]], row))
    lines = [f"{'layer':40} {'|grad|':>12} {'rms out':>12} {'step':>8}"]
    for layer, rows in sorted(by_layer.items()):
        norm, rms = quantity_of(rows, "grad", "norm"), quantity_of(rows, "out", "rms")
        lines.append(f"{layers[layer]['name']:40} {norm:>12} {rms:>12} {step['step']:8}")
    print("\x1b[H\x1b[J" if sys.stdout.isatty() else "", *lines, sep="\n", flush=True)


def watch(socket, run):
    """Subscribe to a run, and print each step that arrives, until the run ends."""

    def send(name, **fields):
        socket.send(msgpack.packb({"t": name, **fields}))

    hello = {"role": "viewer", "peer": uuid.uuid4().hex, "protocol": 1}
    layers, sent_s = {}, time.monotonic()
    send("hello", **hello)
    while True:
        if time.monotonic() - sent_s > 2:
            sent_s = time.monotonic()
            send("hb")
        if not socket.poll(500):
            continue
        head, *pieces = socket.recv_multipart()
        message, body = msgpack.unpackb(head), b"".join(pieces)
        match message["t"]:
            case "who":
                send("hello", **hello)
            case "refusal":
                sys.exit(message["reason"])
            case "welcome":  # from this hub or, if it was restarted, from the next one
                layers.clear()
                send("runs")
            case "runs":
                live = [each["run"] for each in message.get("runs", ()) if each["is_live"]]
                run = run or (live[0] if live else None)
                if layers and run not in live:
                    return
                if not layers and run in live:
                    send("sub", run=run, backfill=False)
                    send("credit", count=8)
            case "manifest" if message["run"] == run and message["rank"] == 0:
                layers[message["revision"]] = msgpack.unpackb(body)
            case "step" if message["run"] == run:
                send("credit", count=1)
                if message["rank"] == 0 and message.get("layers", "all") == "all":
                    print_table(message, body, layers[message["manifest_revision"]])


if __name__ == "__main__":
    folder = os.environ.get("GRADSCOPE_RUNTIME_DIR") or f"/tmp/gradscope-{os.getuid()}"  # noqa: S108 - private
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(f"ipc://{folder}/viewers.sock")
        watch(dealer, sys.argv[1] if len(sys.argv) > 1 else None)
