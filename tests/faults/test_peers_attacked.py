"""A client with a faulty agent, and a training with a faulty viewer: both continue."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

import gradscope
from gradscope.protocol import decode, encode
from gradscope.transport import hub_address
from support import attacks, fork_server
from support.waiting import wait_for

TRAINING = Path(__file__).parents[1] / "end_to_end" / "training.py"
AGENT_TAGS = (
    "manifest", "step", "scalars", "event", "memory", "times", "interventions", "environment", "captured", "hb",
)  # fmt: skip


def flood_a_client(hub, bring_up, seed: int, duration_s: float) -> int:
    """Send changed messages of agents of run `r`, which a client watches. Return how many."""
    stream, sent = attacks.mutants(seed, AGENT_TAGS), 0
    until_s = time.monotonic() + duration_s
    with gradscope.connect(endpoint=str(hub.directory)) as client:
        client.watch("r")
        while time.monotonic() < until_s:
            hello = encode(attacks.agent_hello("r", "attacker", rank=1, world_size=2))
            golden = attacks.golden_frames()
            messages = [parts for parts in itertools.islice(stream, 8) if parts]
            attacks.attack(hub.agents, [hello, golden["manifest"], golden["step"], *messages])
            sent += len(messages)
            client.receive(0)
            client.take(1_000)
        served = attacks.Served(hub, bring_up)
        assert "faults" not in served.check()
        assert wait_for(lambda: any(info.run == "sound" for info in client.runs()), "the sound run")
        assert client.counters["received"] > 0
    return sent


def test_a_client_continues_after_messages_of_a_faulty_agent(hub, bring_up):
    assert flood_a_client(hub, bring_up, 1, 2.0) > 50


@pytest.mark.exhaustive
def test_a_client_continues_after_a_minute_of_messages_of_a_faulty_agent(hub, bring_up):
    assert flood_a_client(hub, bring_up, 2, 60.0) > 1_000


SCALE = {"action": "install", "intervention": "scale", "layers": ["*"], "arguments": {"factor": 1.0}}
COMMANDS = [
    {"action": "capture", "layers": ["*"], "what": "nonsense"},
    {"action": "capture", "layers": ["re:("]},
    {"action": "focus", "layers": ["x" * 60_000]},
    {"action": "focus", "layers": [""] * 5_000},
    {"action": "break", "condition": "(" * 20_000},
    {"action": "break", "condition": "norm > " + "9" * 20_000},
    {"action": "break", "condition": "not " * 15_000 + "nan"},
    {"action": "pause", "lease_s": float("nan")},
    {"action": "pause", "lease_s": float("inf")},
    {"action": "pause", "lease_s": -1.0},
    {"action": "install", "intervention": "clip", "layers": ["*"], "arguments": {"max_norm": float("nan")}},
    {"action": "install", "intervention": "clip", "layers": ["*"], "arguments": {"max_norm": -1.0}},
    {"action": "install", "intervention": "scale", "layers": ["*"], "arguments": {"factor": 1e999}},
    {"action": "install", "intervention": "__class__", "layers": ["*"]},
    SCALE | {"end_steps": 2**63 - 1},
    SCALE | {"end_s": float("nan")},
    SCALE | {"site": "../x"},
    {"action": "remove", "target": "\0" * 60_000},
    {"action": "unbreak", "target": "x"},
    {"action": "undo"},
    {"action": "remove_all"},
    {"action": "resume"},
]  # fmt: skip


class Commands:
    """A viewer without manners, at a training."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._number = 0
        self._context = zmq.Context()
        self.answers: dict[bytes, bool] = {}

    def send(self, all_fields: list[dict]) -> None:
        """Send commands over a connection of their own, and wait until each has its answer or is refused."""
        with self._context.socket(zmq.DEALER) as viewer:
            viewer.setsockopt(zmq.LINGER, 1_000)
            viewer.connect(hub_address().viewers)
            viewer.send_multipart(encode(attacks.viewer_hello("attacker")))
            ids = set()
            for fields in all_fields:
                self._number += 1
                known = {
                    "t": "cmd",
                    "id": self._number.to_bytes(16, "big"),
                    "run": self._run,
                    "peer": "attacker",
                }
                viewer.send(msgspec.msgpack.encode(known | fields))
                ids.add(known["id"])
            deadline_s = time.monotonic() + 20
            while ids and time.monotonic() < deadline_s:
                if viewer.poll(50):
                    answer = decode(viewer.recv_multipart())
                    if hasattr(answer, "command"):
                        ids.discard(answer.command)
                        self.answers[answer.command] = answer.is_done
                    elif answer.__class__.__name__ == "Refusal":
                        ids.pop()
            assert not ids, f"{len(ids)} of {len(all_fields)} have no answer: {all_fields[0]} …"

    def close(self) -> None:
        self._context.destroy(linger=0)


def attack_a_training(tmp_path, attack) -> None:
    """Run a training while `attack` sends commands. It must end as if there had been none, without an error."""
    over, result = tmp_path / "over", tmp_path / "run.npz"
    command = [
        sys.executable,
        str(TRAINING),
        str(result),
        "100000",
        "--until",
        str(over),
        "--sleep-s",
        "0.002",
    ]
    with fork_server.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        commands = Commands("training")
        try:
            with wait_for(_connected, "the run") as client:
                client.latest()
            attack(commands)
            with wait_for(_connected, "the run") as client:
                client.remove_all()
                client.resume()
                newest = client.latest().step
                wait_for(lambda: client.latest().step > newest, "a step after the attack")
            over.touch()
            _, errors = process.communicate(timeout=60)
        finally:
            commands.close()
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "failed" not in errors, errors
    with np.load(result) as arrays:
        assert np.isfinite(arrays["loss"]).all()


def _connected():
    try:
        return gradscope.connect("training")
    except gradscope.NothingToConnectError:
        return None


@pytest.mark.usefixtures("ended_hubs")
def test_a_training_answers_every_command_of_a_faulty_viewer_and_continues(tmp_path):
    def attack(commands: Commands) -> None:
        for fields in COMMANDS:
            commands.send([fields])

    attack_a_training(tmp_path, attack)


@pytest.mark.usefixtures("ended_hubs")
def test_of_a_thousand_commands_at_once_each_is_answered_or_refused(
    tmp_path,
):
    def attack(commands: Commands) -> None:
        commands.send([{"action": "focus", "layers": ["2"]}] * 1_000)
        assert sum(commands.answers.values()) >= 64

    attack_a_training(tmp_path, attack)
