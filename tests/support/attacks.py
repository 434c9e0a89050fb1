"""What a hub must survive: frames that were changed at random, bombs, and a look whether it still serves the others."""

import random
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import zmq

from gradscope.protocol import Event, Hello, Manifest, Runs, Subscribe, Welcome, pack_layers
from gradscope.transport import HubAddress, Link
from support.hubs import pid_of_hub
from support.waiting import wait_for

__all__ = [
    "Served",
    "agent_hello",
    "attack",
    "golden_frames",
    "mutants",
    "open_descriptors",
    "resident_bytes",
    "viewer_hello",
]

_GOLDEN = Path(__file__).parents[1] / "protocol" / "golden.txt"


def agent_hello(run: str = "r", peer: str = "attacker", **fields) -> Hello:
    return Hello(role="agent", peer=peer, run=run, record=fields.pop("record", ""), **fields)


def viewer_hello(peer: str = "viewer", want: str = "control") -> Hello:
    return Hello(role="viewer", peer=peer, want=want)


def golden_frames() -> dict[str, list[bytes]]:
    """Return the parts of one message of each type, by its tag. The hello records nothing."""
    frames = {}
    for line in _GOLDEN.read_text().splitlines():
        if line and not line.startswith("#"):
            tag, *parts = line.split()
            frames[tag] = [bytes.fromhex(part) for part in parts]
    hello = msgspec.msgpack.decode(frames["hello"][0])
    frames["hello"] = [msgspec.msgpack.encode(hello | {"record": ""})]
    return frames


def mutants(seed: int, tags: Collection[str] = ()) -> Iterator[list[bytes]]:
    """Yield golden messages with one to four random changes, forever. `tags`: only messages of these types."""
    chance = random.Random(seed)
    golden = golden_frames()
    frames = list(golden.values())
    while True:
        parts = list(golden[chance.choice(list(tags or golden))])
        for _ in range(chance.randint(1, 4)):
            _change(parts, chance, frames)
        yield parts


def _change(parts: list[bytes], chance: random.Random, frames: list[list[bytes]]) -> None:
    index = chance.randrange(len(parts))
    data = bytearray(parts[index])
    at = chance.randrange(len(data) + 1)
    match chance.randrange(8):
        case 0 if data:  # one bit
            data[at % len(data)] ^= 1 << chance.randrange(8)
        case 1:  # a value of another type or length
            data[at : at + 1] = chance.choice(_VALUES)
        case 2:
            data[at:at] = chance.randbytes(chance.randint(1, 20))
        case 3:
            del data[at : at + chance.randint(1, 20)]
        case 4:  # a part of another message
            other = chance.choice(chance.choice(frames))
            data[at:] = other[chance.randrange(len(other) + 1) :]
        case 5:
            parts.insert(index, bytes(data))
            return
        case 6 if len(parts) > 1:
            del parts[index]
            return
        case _:  # a field with a limit as its value
            _change_field(data, chance)
    parts[index] = bytes(data)


def _change_field(data: bytearray, chance: random.Random) -> None:
    try:
        fields = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, ValueError):
        return
    if isinstance(fields, dict) and fields:
        name = chance.choice(list(fields))
        fields[name] = chance.choice(_EXTREMES)
        data[:] = msgspec.msgpack.encode(fields)


_VALUES = [
    b"\xc0", b"\xc2", b"\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01",
    b"\xc6\xff\xff\xff\xff", b"\x91" * 40, b"\xd4\xff\x00", b"\xa1\xff", b"\xc4\x01\x00",
]  # fmt: skip
_EXTREMES = [
    None, True, -1, 0, 1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 1e308, float("nan"), float("inf"), "", "r", "\0" * 300,
    "x" * 70_000, b"", b"\xff" * 16, [], {}, [[]] * 1000, ["a"] * 5000, {"": None}, {"a": -1}, [["sum", "f8"]],
    [["sum", "f8"]] * 100, [["", ""]], ["out"] * 300, [2**62] * 10,
]  # fmt: skip


def attack(endpoint: str, messages: list[list[bytes]]) -> None:
    """Send messages over a connection of their own. Return when the hub has received them."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 5_000)
        dealer.setsockopt(zmq.SNDTIMEO, 20_000)
        dealer.connect(endpoint)
        for message in messages:
            dealer.send_multipart(message)


def open_descriptors(pid: int) -> int:
    """Return the number of open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class Served:
    """A well-behaved agent and viewer at a hub. `check` fails unless a message still gets from one to the other."""

    def __init__(self, hub: HubAddress, bring_up) -> None:
        self.hub = hub
        self.pid = pid_of_hub(hub)
        self.agent: Link = bring_up(hub.agents, agent_hello("sound", "sound agent"))
        self.viewer: Link = bring_up(hub.viewers, viewer_hello("sound viewer"))
        self.agent.send(Manifest(run="sound", rank=0, revision=1, model="Net", body=pack_layers([])))
        self.viewer.send(Subscribe(run="sound"))
        self._number = 0
        self.check()

    def check(self) -> dict[str, int]:
        """Fail unless the same hub still delivers. Return its counters."""
        self._number += 1
        text, counters, texts = f"message {self._number}", [], set()
        sent = Event(run="sound", rank=0, step=0, time_s=1.0, level="info", code="c", text=text)
        self.viewer.send(Runs())

        def arrived() -> bool:
            self.agent.receive(0)
            if self.agent.state.phase == "up":
                self.agent.send(sent)
            for message in self.viewer.receive(0.02):
                if isinstance(message, Welcome):  # the hub has closed all connections
                    self.viewer.send(Subscribe(run="sound"))
                    self.viewer.send(Runs())
                elif isinstance(message, Runs):
                    counters.append(message.counters)
                elif isinstance(message, Event):
                    texts.add(message.text)
            return bool(counters) and text in texts

        wait_for(arrived, f"{text} at {self.viewer.state}, {self.agent.state}")
        assert pid_of_hub(self.hub) == self.pid, "the hub has died"
        return counters[-1]

    def beat(self) -> None:
        """Keep both links alive."""
        self.agent.receive(0)
        self.viewer.receive(0)

    def listing(self) -> Runs:
        """Return the hub's list of runs."""
        self.viewer.send(Runs())
        found: list[Runs] = []

        def arrived() -> bool:
            self.agent.receive(0)
            found.extend(m for m in self.viewer.receive(0.05) if isinstance(m, Runs))
            return bool(found)

        wait_for(arrived, "the list of runs")
        return found[-1]
