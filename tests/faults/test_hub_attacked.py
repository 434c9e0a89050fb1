"""A hub that strangers of the same user attack: it continues, serves the others, bounds its memory, counts refusals."""

import contextlib
import itertools
import os
import random
import socket
import time

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradscope.protocol import (
    BODY_LIMIT_BYTES,
    Bye,
    Command,
    Credit,
    Event,
    Hello,
    Refusal,
    Runs,
    Step,
    Subscribe,
    decode,
    encode,
)
from support import attacks
from support.examples import IS_EXHAUSTIVE
from support.waiting import wait_for

pack = msgspec.msgpack.encode
MEGABYTE = 2**20


@pytest.fixture
def served(hub, bring_up):
    """A well-behaved agent and viewer, and afterwards the hub must have had no error of its own."""
    found = attacks.Served(hub, bring_up)
    yield found
    assert "faults" not in found.check()


@pytest.fixture
def context():
    with zmq.Context() as made:
        yield made


def growth(served, do) -> int:
    """Return by how much the hub has grown, in bytes, after `do`."""
    before = attacks.resident_bytes(served.pid)
    do()
    served.check()
    return attacks.resident_bytes(served.pid) - before


def text_of(limit: int, make) -> bytes:
    """Return the head of a message with a text as long as a head may have."""
    length = limit
    while len(pack(make("\0" * length))) > limit:
        length -= 10
    return pack(make("\0" * length))


HEAD = 256 * 1024
VIEWER_HEAD = 64 * 1024
LONG_TEXTS = {
    "a role": ("agents", text_of(HEAD, lambda t: {"t": "hello", "peer": "p", "role": t})),
    "a tag": ("agents", text_of(HEAD, lambda t: {"t": t})),
    "a version": ("agents", text_of(HEAD, lambda t: {
        "t": "hello", "peer": "p", "role": "agent", "protocol": 7, "version": t})),
    "a path": ("agents", text_of(HEAD, lambda t: {
        "t": "hello", "peer": "p", "role": "agent", "run": "r", "record": t})),
    "a run of an event": ("agents", text_of(HEAD, lambda t: {
        "t": "event", "run": t, "rank": 0, "step": 0, "time_s": 0.0, "level": "info", "code": "", "text": ""})),
    "a reason": ("agents", text_of(HEAD, lambda t: {"t": "bye", "reason": t})),
    "a run of a command": ("viewers", text_of(VIEWER_HEAD, lambda t: {
        "t": "cmd", "id": bytes(16), "peer": "attacker", "action": "pause", "run": t})),
    "a peer of a command": ("viewers", text_of(VIEWER_HEAD, lambda t: {
        "t": "cmd", "id": bytes(16), "peer": t, "action": "pause", "run": "sound"})),
    "a run of a subscription": ("viewers", text_of(VIEWER_HEAD, lambda t: {"t": "sub", "run": t})),
}  # fmt: skip


@pytest.mark.parametrize("what", LONG_TEXTS)
def test_a_text_as_long_as_a_message_does_not_end_the_hub_that_repeats_it_in_its_answer(
    served, context, what
):
    socket_name, message = LONG_TEXTS[what]
    role = {"agents": "agent", "viewers": "viewer"}[socket_name]
    hello = Hello(role=role, peer="attacker", want="control", run="r", record="")
    attacks.attack(getattr(served.hub, socket_name), [encode(hello), [message]])
    served.check()


def test_a_command_that_waits_is_answered_if_its_run_ends_for_a_reason_as_long_as_a_message(
    served, context, bring_up
):
    agent = bring_up(served.hub.agents, attacks.agent_hello("r"))
    viewer = bring_up(served.hub.viewers, attacks.viewer_hello())
    viewer.send(Command(id=bytes(16), peer="viewer", run="r", action="pause"))
    wait_for(lambda: any(isinstance(m, Command) for m in agent.receive(0.05)), "the command")
    agent.send(Bye(reason="x" * (HEAD - 100)))
    answers = wait_for(
        lambda: [m for m in viewer.receive(0.05) if m.__class__.__name__ == "Ack"], "an answer"
    )
    assert not answers[0].is_done
    assert len(answers[0].reason) <= 1_000
    (info,) = [info for info in served.listing().runs if info.run == "r"]
    assert len(info.reason) <= 300


def greet_at_random(served, count: int, seed: int) -> int:
    """Connect `count` times and send random bytes: raw ones, or after the start of ZeroMQ's greeting."""
    chance = random.Random(seed)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
    held = []
    for number in range(count):
        path = chance.choice([served.hub.agents_path, served.hub.viewers_path])
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(20)
        wait_for(lambda stream=stream, path=path: _connects(stream, path), f"greeting {number}")
        start = greeting[: chance.randint(0, len(greeting))] if chance.random() < 0.7 else b""
        with contextlib.suppress(OSError):  # the hub has closed the connection already
            stream.sendall(start + chance.randbytes(chance.randint(0, 300)))
        held.append(stream)
        if len(held) == 50:
            for each in held:
                each.close()
            held.clear()
            served.beat()
    for each in held:
        each.close()
    return count


def _connects(stream: socket.socket, path) -> bool:
    try:
        stream.connect(os.fspath(path))
    except (BlockingIOError, FileNotFoundError, ConnectionRefusedError):
        return False  # the queue of connections is full, or the hub has stopped to listen for a while
    return True


def test_1000_random_greetings(served):
    assert growth(served, lambda: greet_at_random(served, 1_000, seed=1)) < 16 * MEGABYTE


@pytest.mark.exhaustive
def test_10000_random_greetings(served):
    assert growth(served, lambda: greet_at_random(served, 10_000, seed=2)) < 16 * MEGABYTE


def test_500_half_open_connections_are_closed_when_their_handshake_is_late(served):
    before = attacks.open_descriptors(served.pid)
    streams = []
    try:
        for number in range(500):
            stream = socket.socket(socket.AF_UNIX)
            streams.append(stream)
            path = [served.hub.agents_path, served.hub.viewers_path][number % 2]
            wait_for(lambda stream=stream, path=path: _connects(stream, path), "a connection")
        wait_for(lambda: attacks.open_descriptors(served.pid) > before + 400, "the connections")
        served.check()

        def are_closed() -> bool:
            served.beat()
            return attacks.open_descriptors(served.pid) <= before

        wait_for(are_closed, "the end of the connections")
    finally:
        for stream in streams:
            stream.close()


def throw_mutants(served, context, seed: int, duration_s: float) -> int:
    """Send changed golden messages to both sockets for `duration_s`, each connection after a valid hello."""
    stream, thrown = attacks.mutants(seed), 0
    until_s = time.monotonic() + duration_s
    for number in itertools.count():
        if time.monotonic() > until_s:
            return thrown
        is_agent = number % 2 == 0
        hello = (
            attacks.agent_hello("r", f"attacker {number % 5}", rank=number % 4 // 2, world_size=2)
            if is_agent
            else attacks.viewer_hello("attacker")
        )
        endpoint = served.hub.agents if is_agent else served.hub.viewers
        messages = [parts for parts in itertools.islice(stream, 8) if parts]
        attacks.attack(endpoint, [encode(hello), *messages])
        thrown += len(messages)
        if number % 20 == 0:
            served.beat()
    return thrown


def test_changed_golden_messages_for_two_seconds(served, context):
    assert throw_mutants(served, context, 1, 2.0) > 100


@pytest.mark.exhaustive
@pytest.mark.timeout(200)
def test_changed_golden_messages_for_a_minute(served, context):
    grown = growth(served, lambda: throw_mutants(served, context, 2, 60.0))
    assert grown < 100 * MEGABYTE


@settings(
    max_examples=1_000 if IS_EXHAUSTIVE else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    tag=st.sampled_from(sorted(attacks.golden_frames())),
    changes=st.dictionaries(
        st.sampled_from(["run", "rank", "seq", "step", "peer", "rows", "columns", "kinds", "values", "id", "count",
                         "role", "protocol", "entries", "counters", "steps", "times_s", "body", "revision", "text"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9)
            | st.binary(max_size=9),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
            max_leaves=8,
        ),
        min_size=1, max_size=4,
    ),
    is_agent=st.booleans(),
)  # fmt: skip
def test_fields_with_any_values_do_not_end_the_hub(served, context, tag, changes, is_agent):
    head, *body = attacks.golden_frames()[tag]
    message = [pack(msgspec.msgpack.decode(head) | changes), *body]
    hello = attacks.agent_hello(rank=1, world_size=2) if is_agent else attacks.viewer_hello("attacker")
    endpoint = served.hub.agents if is_agent else served.hub.viewers
    attacks.attack(endpoint, [encode(hello), message])
    served.beat()


BOMBS = {
    "deep": [b"\x91" * 200_000],
    "wide": [b"\xdf\x00\x01\x86\xa0" + b"\xa1a\xc0" * 60_000],
    "long": [b"\x82\xa1t\xa5hello\xa4peer\xdb\xff\xff\xff\xff" + b"x" * 200_000],
    "an extension type": [b"\x82\xa1t\xa5hello\xa4peer\xc9\x00\x03\x00\x00\x01" + b"x" * 196_608],
    "a timestamp": [b"\x82\xa1t\xa5hello\xa9started_s\xd7\xff" + bytes(8)],
    "65 parts": [b"x"] * 65,
    "many parts": [b"x"] * 20_000,
    "an empty message": [b""],
    "a body of a message that has none": [encode(Bye())[0], b"x" * 262_144],
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_and_counted(served, context, bomb):
    before = served.check()
    with context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(served.hub.agents)
        dealer.send_multipart(BOMBS[bomb])
        assert dealer.poll(20_000)
        refusal = decode(dealer.recv_multipart())
    assert isinstance(refusal, Refusal)
    assert served.check()["garbage"] == before.get("garbage", 0) + 1


@pytest.mark.parametrize("bomb", ["deep", "wide", "long", "an extension type"])
def test_a_thousand_bombs_do_not_make_the_hub_grow(served, context, bomb):
    def throw() -> None:
        for number in range(100):  # ten from each: then a peer is ignored
            attacks.attack(served.hub.agents, [BOMBS[bomb]] * 10)
            if number % 5 == 0:
                served.check()  # so that few bombs are in transit at one time

    # 600 MB are sent; what is in transit at one time stays with the hub's allocator.
    assert growth(served, lambda: [throw() for _ in range(3)]) < 256 * MEGABYTE


def test_the_largest_steps_of_many_runs_stay_below_their_limit_together(served, bring_up):
    """Each history may have 32 MB of steps; their sum is bounded by a second limit, in gradscope/hub/runs.py."""

    def throw() -> None:
        for run in range(3):
            agent = bring_up(served.hub.agents, attacks.agent_hello(f"run {run}", f"agent {run}"))
            for seq in range(6):
                step = Step(
                    run=f"run {run}", rank=0, seq=seq, step=seq, time_s=0.0, manifest_revision=1, kinds=(),
                    rows=0, columns=(), body=b"x" * BODY_LIMIT_BYTES,
                )  # fmt: skip
                wait_for(lambda agent=agent, step=step: agent.send(step), "a step")
                agent.receive(0)
                served.beat()
            agent.close(Bye())

    assert growth(served, throw) < 3 * 48 * MEGABYTE + 100 * MEGABYTE


def test_a_viewer_that_reads_nothing_makes_the_hub_keep_a_bounded_number_of_bytes(
    served, context, bring_up
):
    agent = bring_up(served.hub.agents, attacks.agent_hello("r"))
    text = "x" * 200_000
    with context.socket(zmq.DEALER) as viewer:
        viewer.setsockopt(zmq.LINGER, 0)
        viewer.setsockopt(zmq.RCVHWM, 1)
        viewer.connect(served.hub.viewers)
        for message in (attacks.viewer_hello("attacker"), Subscribe(run="r"), Credit(count=10_000)):
            viewer.send_multipart(encode(message))

        def throw() -> None:
            for number in range(1_000):
                event = Event(
                    run="r", rank=0, step=number, time_s=0.0, level="info", code="c", text=text
                )
                wait_for(lambda event=event: agent.send(event) or agent.receive(0), "an event")
                if number % 50 == 0:
                    served.beat()

        # 64 messages in libzmq's queue, 32 MB in the hub's, and 4 MB in the history
        assert growth(served, throw) < 120 * MEGABYTE
        assert served.check()["dropped_to_viewers"] > 500


def flood(served, context, message, count: int) -> None:
    with context.socket(zmq.DEALER) as viewer:
        viewer.setsockopt(zmq.LINGER, 5_000)
        viewer.connect(served.hub.viewers)
        viewer.send_multipart(encode(attacks.viewer_hello("attacker")))
        parts = encode(message)
        for number in range(count):
            viewer.send_multipart(parts)
            if number % 1_000 == 0:
                served.check()


FLOODS = {
    "subscriptions": Subscribe(run="sound"),
    "requests": Runs(),
    "hellos": attacks.viewer_hello("attacker"),
    "commands": Command(id=bytes(16), peer="attacker", run="sound", action="pause"),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_viewer_that_sends_20000_messages_is_served_and_so_are_the_others(served, context, what):
    assert growth(served, lambda: flood(served, context, FLOODS[what], 20_000)) < 64 * MEGABYTE


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_a_viewer_that_subscribes_a_million_times(served, context):
    assert (
        growth(served, lambda: flood(served, context, FLOODS["subscriptions"], 1_000_000))
        < 64 * MEGABYTE
    )
