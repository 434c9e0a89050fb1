"""What the link carries: `python -m benchmarks.link [--agents 64] [--rate 10] [--layers 600] [--viewers 5]`.

Simulated agents send steps of the size of real ones to one hub on one processor. Viewers ask for each step. It prints
the hub's share of a processor, its memory, the steps that were sent, lost, delivered and skipped, and the time from the
end of a step to a viewer (p50, p99), and the bytes that a viewer receives. Viewers ask for merged rows, with `--each`
for the messages of each rank. `--stopped` viewers subscribe and then read nothing.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from multiprocessing.synchronize import Event as EventType
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from gradscope.columns import COLUMNS, Block
from gradscope.protocol import (
    Credit,
    Heartbeat,
    Hello,
    Layer,
    Manifest,
    Message,
    RankStates,
    Runs,
    Scalars,
    Skipped,
    Step,
    Subscribe,
    Welcome,
    encode,
    pack_layers,
)
from gradscope.protocol.bodies import pack_block
from gradscope.transport import HubAddress, Link, ensure_hub
from gradscope.transport.lock import HUB_LOCK, holder_pid

_RUN = "load"
_AGENTS_A_PROCESS = 16
_START_S = 5


def main() -> None:
    """Measure, and print one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agents", type=int, default=64)
    parser.add_argument("--rate", type=float, default=10.0, help="steps a second of each agent")
    parser.add_argument("--layers", type=int, default=600)
    parser.add_argument("--viewers", type=int, default=5)
    parser.add_argument("--stopped", type=int, default=0)
    parser.add_argument("--each", action="store_true", help="viewers receive the steps of each rank")
    parser.add_argument("--viewer-rate", type=float, default=1000.0)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    os.environ |= {
        "GRADSCOPE_RUNTIME_DIR": str(directory / "run"),
        "GRADSCOPE_DATA_DIR": str(directory / "data"),
    }
    try:
        _measure(options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _measure(options: argparse.Namespace) -> None:
    address = ensure_hub(timeout_s=30)
    pid = holder_pid(address.directory / HUB_LOCK)
    assert pid is not None
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {0})
    context = multiprocessing.get_context("fork")
    over, results = context.Event(), context.Queue()
    options.start_s = time.monotonic()
    processes = []
    for first in range(0, options.agents, _AGENTS_A_PROCESS):
        ranks = range(first, min(first + _AGENTS_A_PROCESS, options.agents))
        processes.append(
            context.Process(target=_send_steps, args=(address, ranks, options, over, results))
        )
    watchers = [
        context.Process(target=_watch, args=(address, number, options, over, results))
        for number in range(options.viewers)
    ]
    for process in [*processes, *watchers]:
        process.start()
    stopped = [_stopped_viewer(address, number) for number in range(options.stopped)]
    time.sleep(_START_S + 1)  # all have joined
    cpu_s, began_s = _cpu_s(pid), time.monotonic()
    time.sleep(options.duration)
    share = (_cpu_s(pid) - cpu_s) / (time.monotonic() - began_s)
    memory = _status(pid, "VmRSS")
    counters = _counters(address)
    over.set()
    reports = [results.get(timeout=60) for _ in [*processes, *watchers]]
    for process in [*processes, *watchers]:
        process.join()
    for viewer in stopped:
        viewer.close(0)
    seen = [report for report in reports if "delays_s" in report]
    delays_s = np.concatenate([report["delays_s"] for report in seen]) if seen else np.zeros(0)
    print(f"agents {options.agents}, {options.rate:g} steps/s each, {options.layers} rows, "
          f"viewers {options.viewers} + {options.stopped} stopped; {os.cpu_count()} processors, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"hub: {share:.0%} of a processor, {memory / 1024:.0f} MB")
    print(f"steps received by the hub {counters['received']}, lost on the way to it {counters['lost']}, "
          f"not sent by agents {sum(report.get('unsent', 0) for report in reports)}")  # fmt: skip
    print(f"steps for viewers {counters['offered']} = sent {counters['sent']} + skipped {counters['skipped']} "
          f"+ waiting {counters['offered'] - counters['sent'] - counters['skipped']}")  # fmt: skip
    for report in seen:
        print(
            f"a viewer: {report['steps'] / report['duration_s']:.1f} steps/s, skipped {report['skipped']}, "
            f"{report['bytes'] / report['duration_s'] / 1000:.0f} kB/s in messages"
        )
    if delays_s.size:
        p50, p99 = np.percentile(delays_s, [50, 99]) * 1000
        print(f"end of a step to viewer: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({delays_s.size} steps)")


def _send_steps(
    address: HubAddress,
    ranks: Iterable[int],
    options: argparse.Namespace,
    over: EventType,
    results: Any,  # Any: multiprocessing's queue
) -> None:
    layers = tuple(Layer(f"layer{number}", "Linear") for number in range(options.layers))
    links = {
        rank: Link(address.agents, Hello(role="agent", peer=f"agent {rank}", run=_RUN, rank=rank,
                                         world_size=options.agents, record=""))
        for rank in ranks
    }  # fmt: skip
    body, columns, zero = _body(options.layers)
    unsent, seq = 0, 0
    due_s = options.start_s + _START_S  # all agents are in the same step, as ranks are
    while not over.is_set():
        for rank, link in links.items():
            for message in link.receive(0):
                if isinstance(message, Welcome):
                    link.send(
                        Manifest(
                            run=_RUN,
                            rank=rank,
                            revision=1,
                            model="Net",
                            layer_count=len(layers),
                            body=pack_layers(layers),
                        )
                    )
        if time.monotonic() >= due_s:
            due_s += 1 / options.rate
            for rank, link in links.items():
                if link.state.phase == "up":
                    step = Step(
                        run=_RUN, rank=rank, seq=seq, step=seq, time_s=time.time(), manifest_revision=1,
                        kinds=("out",), rows=options.layers, step_time_s=0.1, columns=columns, zero=zero, body=body,
                    )  # fmt: skip
                    unsent += not link.send(step)
                    link.send(
                        Scalars(
                            run=_RUN,
                            rank=rank,
                            steps=(seq,),
                            times_s=(step.time_s,),
                            values={"loss": (1.0,), "step_time_s": (0.1,)},
                        )
                    )
            seq += 1
        else:
            time.sleep(0.002)
    for link in links.values():
        link.close()
    results.put({"unsent": unsent})


def _body(rows: int) -> tuple[bytes, tuple[tuple[str, str], ...], tuple[str, ...]]:
    random = np.random.default_rng(0)
    values = {
        column.name: random.integers(1, 1000, rows).astype(np.uint64)
        if column.is_count
        else random.standard_normal(rows)
        for column in COLUMNS
    }
    zeros = np.zeros(rows, np.uint32)
    block = Block(("out",), np.arange(rows, dtype=np.uint32), zeros, zeros.astype(np.uint8), values)
    columns, zero, body = pack_block(block)
    return body, columns, zero


def _watch(
    address: HubAddress,
    number: int,
    options: argparse.Namespace,
    over: EventType,
    results: Any,  # Any: as above
) -> None:
    delays_s: list[float] = []
    skipped = size_bytes = 0
    began_s = time.monotonic()
    with Link(address.viewers, Hello(role="viewer", peer=f"viewer {number}")) as link:
        while not over.is_set():
            for message in link.receive(0.2):
                if isinstance(message, Step | Scalars | RankStates | Runs | Heartbeat) and not delays_s:
                    began_s, size_bytes = time.monotonic(), 0
                size_bytes += sum(map(len, encode(message)))
                skipped += _count(link, message, delays_s, options)
    results.put({
        "delays_s": np.array(delays_s), "steps": len(delays_s), "skipped": skipped,
        "duration_s": time.monotonic() - began_s, "bytes": size_bytes,
    })  # fmt: skip


def _count(link: Link, message: Message, delays_s: list[float], options: argparse.Namespace) -> int:
    if isinstance(message, Welcome):
        link.send(
            Subscribe(
                run=_RUN, max_rate_hz=options.viewer_rate, backfill=False, is_merged=not options.each
            )
        )
        link.send(Credit(count=256))
    elif isinstance(message, Step):
        delays_s.append(time.time() - message.time_s)
        link.send(Credit(count=1))
    return message.count if isinstance(message, Skipped) else 0


def _stopped_viewer(address: HubAddress, number: int) -> "zmq.Socket[bytes]":
    viewer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    viewer.setsockopt(zmq.RCVHWM, 1)
    viewer.connect(address.viewers)
    hello = Hello(role="viewer", peer=f"stopped {number}")
    for message in (hello, Subscribe(run=_RUN), Credit(count=10_000)):
        viewer.send_multipart(encode(message))
    return viewer


def _counters(address: HubAddress) -> dict[str, int]:
    with Link(address.viewers, Hello(role="viewer", peer="counters")) as link:
        found: list[Runs] = []
        while not found:
            found = [message for message in link.receive(0.2) if isinstance(message, Runs)]
    ranks = [info.counters for info in found[-1].runs]
    hub = found[-1].counters
    return {
        "received": sum(each["steps_received"] for each in ranks),
        "lost": sum(each["steps_lost"] for each in ranks),
        "offered": hub.get("offered_steps", 0),
        "sent": hub.get("sent_steps", 0),
        "skipped": hub.get("skipped_steps", 0),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])


if __name__ == "__main__":
    main()
