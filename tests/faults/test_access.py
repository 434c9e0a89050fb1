"""Who is refused: over the network by the gateway, at the hub, and by the agent. With real processes and sockets."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar, get_args

import msgspec
import pytest
import zmq

from gradscope.access import (
    AuthorizedKeys,
    CurveKeys,
    authorize,
    new_key_pair,
    own_key,
    own_keys,
    own_server_key,
    require_curve,
    revoke,
    to_hex,
)
from gradscope.agent.link.publisher import Publisher
from gradscope.client import connect
from gradscope.errors import (
    IncompatibleError,
    LinkError,
    NothingToConnectError,
    UnsafePathError,
    UsageError,
)
from gradscope.hub.network.gateway import VIEWER_LIMIT
from gradscope.protocol import (
    Ack,
    Bye,
    Command,
    Credit,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    Runs,
    Step,
    Subscribe,
    Welcome,
    Who,
    decode,
    encode,
)
from gradscope.transport import HubAddress, Link, ensure_hub, hub_address
from support import fork_server
from support.hubs import end_hub
from support.waiting import DEADLINE_S, wait_for

M = TypeVar("M", bound=Message)

AGENT = Hello(role="agent", peer="agent", run="r", record="")
SECONDS = 15.0
"""More than any refusal takes: a handshake ends after 3 s, and a broken one is tried twice. Less than a hang."""


def viewer_hello(peer: str, want: str = "control", **rest: object) -> Hello:
    return Hello(role="viewer", peer=peer, want=want, **rest)  # type: ignore[arg-type]


def command(peer: str, number: int = 1, run: str = "r") -> Command:
    return Command(
        id=number.to_bytes(16, "big"), run=run, peer=peer, action="install", intervention="stop",
        layers=("fc",), set_by="me",
    )  # fmt: skip


def receive(
    link: Link,
    is_enough: Callable[[list[Message]], object],
    others: Sequence[Link] = (),
    timeout_s: float = DEADLINE_S,
) -> list[Message]:
    """Receive on a link until what came is enough, keeping other links alive."""
    deadline_s = time.monotonic() + timeout_s
    messages: list[Message] = []
    while not is_enough(messages):
        assert time.monotonic() < deadline_s, (link.state, messages)
        messages += link.receive(0.02)
        for other in others:
            other.receive(0.0)
    return messages


def first(link: Link, kind: type[M], others: Sequence[Link] = ()) -> M:
    """Receive until a message of a kind has come, and return it."""
    messages = receive(link, lambda found: any(isinstance(m, kind) for m in found), others)
    return next(message for message in messages if isinstance(message, kind))


@contextmanager
def serving(address: str = "tcp://127.0.0.1:0") -> Iterator[SimpleNamespace]:
    """`gradscope serve` as a process, until the block ends. `address` is where it listens."""
    process = fork_server.Popen(
        [sys.executable, "-m", "gradscope", "serve", "--bind", address, "--json"],
        preload=["gradscope.cli.app", "gradscope.hub.network.gateway"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
        shown = json.loads(text)
        yield SimpleNamespace(process=process, address=shown["address"], shown=shown)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stdout.close()
        process.stderr.close()


class Network:
    """A hub, `gradscope serve`, and the keys of viewers elsewhere."""

    def __init__(self, hub: HubAddress, served: SimpleNamespace, server: str) -> None:
        self.hub = hub
        self.process = served.process
        self.address = served.address
        self.server = server
        self.links: list[Link] = []

    def keys(self, role: str | None, name: str = "") -> CurveKeys:
        """Return new keys, authorized with a role; with None, not authorized."""
        public, secret = (key.decode() for key in zmq.curve_keypair())
        if role is not None:
            authorize(name or role, public, role)  # type: ignore[arg-type]
        return CurveKeys(public, secret, self.server)

    def link(self, keys: CurveKeys, hello: Hello | None = None) -> Link:
        link = Link(self.address, hello or viewer_hello("remote"), keys=keys)
        self.links.append(link)
        return link

    def up(self, keys: CurveKeys, hello: Hello | None = None, others: Sequence[Link] = ()) -> Link:
        link = self.link(keys, hello)
        receive(link, lambda _: link.state.phase == "up", others)
        return link

    def close(self) -> None:
        while self.links:
            self.links.pop().close(Bye(reason="done"))


@contextmanager
def new_network(hub: HubAddress) -> Iterator[Network]:
    """A network with `gradscope serve` in front of a hub. Afterwards no key of a viewer is authorized."""
    server = own_server_key(may_create=True)
    authorize("someone", zmq.curve_keypair()[0].decode(), "observe")
    with serving() as served:
        yield Network(hub, served, server.public)


@pytest.fixture(scope="module")
def shared() -> Iterator[SimpleNamespace]:
    """A hub and `gradscope serve`, which most tests of this file use one after the other."""
    root = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    variables = {
        "GRADSCOPE_RUNTIME_DIR": str(root / "run"),
        "GRADSCOPE_DATA_DIR": str(root / "data"),
        "GRADSCOPE_HUB_IDLE_S": "120",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        address = ensure_hub(timeout_s=DEADLINE_S)
        with new_network(address) as network:
            patch.undo()
            yield SimpleNamespace(network=network, variables=variables)
    end_hub(address)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def network(
    shared: SimpleNamespace, places: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Network]:
    """The shared network, without keys and viewers of other tests."""
    for name, value in shared.variables.items():
        monkeypatch.setenv(name, value)
    yield shared.network
    shared.network.close()
    for key in AuthorizedKeys().all():
        if key.name != "someone":
            revoke(key.name)


@pytest.fixture
def own_network(hub: HubAddress) -> Iterator[Network]:
    """A network for a test that ends or limits its `gradscope serve`."""
    with new_network(hub) as network:
        yield network
        network.close()


@pytest.fixture
def agent(network: Network, bring_up: Callable[[str, Hello], Link]) -> Link:
    return bring_up(network.hub.agents, AGENT)


# Over the network: keys.


def test_an_authorized_key_sees_the_runs_and_its_commands_arrive_with_its_name(network, agent):
    viewer = network.up(network.keys("control", "laptop"), others=[agent])
    viewer.send(Runs())
    runs = receive(viewer, lambda found: any(isinstance(m, Runs) and m.runs for m in found), [agent])
    assert {info.run for m in runs if isinstance(m, Runs) for info in m.runs} == {"r"}
    viewer.send(command("remote"))
    arrived = first(agent, Command, [viewer])
    assert arrived == msgspec.structs.replace(command("remote"), set_by="key laptop: me")
    agent.send(Ack(command=arrived.id, run="r", is_done=True, step=7))
    assert first(viewer, Ack, [agent]).step == 7


def test_an_unknown_key_is_refused_within_seconds_with_the_line_that_authorizes_it(network):
    keys = network.keys(None)
    link = network.link(keys)
    receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
    assert link.state.code == "key"
    assert f"gradscope key authorize {to_hex(keys.public)}" in link.state.reason


def test_a_key_that_is_authorized_later_is_let_in_without_a_new_viewer(network):
    keys = network.keys(None)
    link = network.link(keys)
    receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
    authorize("late", keys.public, "observe")
    receive(link, lambda _: link.state.phase == "up")


def test_the_wrong_key_of_a_server_is_refused_within_seconds(network):
    keys = network.keys("control")
    other = CurveKeys(keys.public, keys.secret, zmq.curve_keypair()[0].decode())
    link = network.link(other)
    receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
    assert link.state.code == "key"
    assert to_hex(other.server) in link.state.reason
    assert f"gradscope key revoke {network.address}" in link.state.reason


def test_a_client_without_curve_gets_nothing_at_a_port_of_curve(network):
    context = zmq.Context()
    with context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        failed = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        monitor = dealer.get_monitor_socket(failed | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        dealer.connect(network.address)
        dealer.send_multipart(encode(viewer_hello("null")))
        assert monitor.poll(SECONDS * 1000)
        event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        assert event & failed
        assert not dealer.poll(0)
        dealer.disable_monitor()
        monitor.close()
    context.term()


def test_a_viewer_with_a_key_says_so_if_the_server_has_no_curve(places):
    context = zmq.Context()
    with context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        public, secret = (key.decode() for key in zmq.curve_keypair())
        link = Link(
            f"tcp://127.0.0.1:{port}", viewer_hello("v"), keys=CurveKeys(public, secret, public)
        )
        receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
        link.close()
    context.term()
    assert link.state.code == "key"
    assert "`gradscope serve`" in link.state.reason


def test_a_port_that_does_not_answer_the_handshake_is_named_within_seconds(places):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        link = Link(address, viewer_hello("v"), keys=CurveKeys(public, secret, public))
        receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
        link.close()
    assert "did not answer the CurveZMQ handshake" in link.state.reason


# Over the network: roles and revocation, of live connections.


def test_the_command_of_an_observer_is_refused_and_never_reaches_the_training(network, agent):
    viewer = network.link(network.keys("observe", "guest"))
    assert first(viewer, Welcome, [agent]).role == "observe"
    viewer.send(command("remote"))
    ack = first(viewer, Ack, [agent])
    assert not ack.is_done
    assert re.search("'guest' may only observe.*--name guest --role control", ack.reason)
    heartbeats = receive(agent, lambda found: "remote" in peers_of(found), [viewer])
    assert not any(isinstance(m, Command) for m in heartbeats)
    assert all("remote" not in m.controllers for m in heartbeats if isinstance(m, Heartbeat))


def peers_of(messages: list[Message]) -> tuple[str, ...]:
    found = [message.peers for message in messages if isinstance(message, Heartbeat)]
    return found[-1] if found else ()


def test_a_role_that_was_lowered_holds_for_the_next_message_of_a_live_connection(network, agent):
    keys = network.keys("control", "laptop")
    viewer = network.up(keys, others=[agent])
    authorize("laptop", keys.public, "observe")
    viewer.send(command("remote"))
    messages = receive(viewer, lambda found: any(isinstance(m, Welcome) for m in found), [agent])
    assert [m.role for m in messages if isinstance(m, Welcome)] == ["observe"]
    viewer.send(command("remote", 2))
    assert not first(viewer, Ack, [agent]).is_done


def test_a_revoked_key_ends_its_live_connection_and_its_commands_with_the_next_message(network, agent):
    viewer = network.up(network.keys("control", "laptop"), others=[agent])
    receive(agent, lambda found: "remote" in peers_of(found), [viewer])
    revoke("laptop")
    viewer.send(command("remote"))
    receive(viewer, lambda _: viewer.state.phase == "refused", [agent], SECONDS)
    assert "'laptop' was revoked" in viewer.state.reason
    left = receive(agent, lambda found: found and "remote" not in peers_of(found), [viewer])
    assert not any(isinstance(message, Command) for message in left)


def test_a_revoked_viewer_that_sends_nothing_is_expelled_too_and_others_stay(network, agent):
    others = network.up(network.keys("observe", "other"), viewer_hello("other"), [agent])
    context = zmq.Context()
    dealer = raw_viewer(context, network, network.keys("observe", "laptop"))
    dealer.send_multipart(encode(viewer_hello("silent")))
    assert isinstance(answer(dealer), Welcome)
    revoke("laptop")
    assert isinstance(answer(dealer, Refusal), Refusal)
    others.send(Runs())
    assert first(others, Runs, [agent])
    assert others.state.phase == "up"
    for _ in range(3):  # from now on nothing is answered
        dealer.send_multipart(encode(viewer_hello("silent")))
    assert not dealer.poll(300)
    dealer.close()
    context.term()


def raw_viewer(
    context: zmq.Context,
    network: Network,
    keys: CurveKeys,
    routing_id: bytes = b"",
    receive_queue: int = 1_000,
) -> zmq.Socket:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RECONNECT_IVL, 50)
    dealer.setsockopt(zmq.RCVHWM, receive_queue)
    if routing_id:
        dealer.setsockopt(zmq.ROUTING_ID, routing_id)
    dealer.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
    dealer.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
    dealer.setsockopt_string(zmq.CURVE_SERVERKEY, keys.server)
    dealer.connect(network.address)
    return dealer


def answer(dealer: zmq.Socket, kind: type[Message] = Welcome) -> Message | None:
    """Return the first message of a kind that a raw viewer receives within the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        if dealer.poll(100):
            message = decode(dealer.recv_multipart())
            if isinstance(message, kind):
                return message
    return None


def test_a_stolen_routing_id_does_not_give_the_rights_of_its_owner(network, agent):
    context = zmq.Context()
    owner = raw_viewer(context, network, network.keys("control", "owner"), b"stolen")
    owner.send_multipart(encode(viewer_hello("owner")))
    assert answer(owner).role == "control"
    thief = raw_viewer(context, network, network.keys("observe", "thief"), b"stolen")
    thief.send_multipart(encode(command("owner")))
    assert not thief.poll(500)  # libzmq takes no second peer with this id
    owner.close()
    thief.disconnect(network.address)
    thief.connect(network.address)
    deadline_s = time.monotonic() + DEADLINE_S
    while not thief.poll(50):  # until the owner's connection is gone
        assert time.monotonic() < deadline_s
        thief.disconnect(network.address)
        thief.connect(network.address)
        thief.send_multipart(encode(command("owner")))
        agent.receive(0.0)
    assert isinstance(decode(thief.recv_multipart()), Who | Ack | Refusal)
    thief.send_multipart(encode(viewer_hello("thief")))
    assert answer(thief).role == "observe"
    thief.send_multipart(encode(command("owner")))
    assert not answer(thief, Ack).is_done
    assert not any(isinstance(m, Command) for m in agent.receive(0.3))
    thief.close()
    context.term()


@pytest.mark.parametrize("version", [0, 2, 1_000_000])
def test_an_old_or_future_version_is_refused_with_both_versions(network, version):
    link = network.link(network.keys("control"), viewer_hello("v", protocol=version))
    receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
    assert link.state.code == "version"
    assert f"version 1 of the protocol, got {version} " in link.state.reason


def test_an_agent_cannot_come_over_the_network(network):
    link = network.link(network.keys("control"), AGENT)
    receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
    assert link.state.code == "role"


def test_a_key_that_forwards_cannot_watch(network):
    link = network.link(network.keys("forward"))
    receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
    assert link.state.code == "role"
    assert "cannot watch" in link.state.reason


def test_a_key_that_forwards_adds_a_run_which_viewers_see(network):
    node = Hello(role="agent", peer="node", run="of a node", rank=8, world_size=16, record="")
    link = network.up(network.keys("forward"), node)
    viewer = network.up(network.keys("observe"), others=[link])
    viewer.send(Runs())
    runs = receive(viewer, lambda found: any(isinstance(m, Runs) and m.runs for m in found), [link])
    infos = [info for m in runs if isinstance(m, Runs) for info in m.runs]
    assert {(info.run, info.rank, info.is_live) for info in infos} >= {("of a node", 8, True)}


# Over the network: load.


def test_half_open_connections_do_not_delay_a_viewer(network, agent):
    host, port = network.address.removeprefix("tcp://").split(":")
    greetings = (b"", b"\xff", b"\xff" + bytes(8) + b"\x7f", b"GET / HTTP/1.1\r\n\r\n")
    half_open = [socket.create_connection((host, int(port)), 10) for _ in range(500)]
    for number, each in enumerate(half_open):
        each.send(greetings[number % len(greetings)])
    begin_s = time.monotonic()
    viewer = network.up(network.keys("observe"), others=[agent])
    took_s = time.monotonic() - begin_s
    for each in half_open:
        each.close()
    assert viewer.state.phase == "up"
    assert took_s < SECONDS
    assert network.process.poll() is None


def test_connections_that_would_take_all_file_descriptors_are_not_accepted(own_network, bring_up):
    network = own_network
    agent = bring_up(network.hub.agents, AGENT)
    quiet = network.up(network.keys("observe", "quiet"), viewer_hello("quiet"), [agent])
    resource.prlimit(network.process.pid, resource.RLIMIT_NOFILE, (128, 128))
    host, port = network.address.removeprefix("tcp://").split(":")
    opened = []
    for _ in range(400):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((host, int(port)))
        opened.append(one)
    quiet.send(Runs())
    assert first(quiet, Runs, [agent])
    assert quiet.state.phase == "up"
    for one in opened:
        one.close()
    viewer = network.link(network.keys("observe", "later"), viewer_hello("later"))
    receive(viewer, lambda _: viewer.state.phase == "up", [agent, quiet])
    assert network.process.poll() is None


def test_garbage_of_an_authorized_viewer_is_refused_ten_times_and_then_ignored(network, agent):
    context = zmq.Context()
    dealer = raw_viewer(context, network, network.keys("control", "noisy"))
    for number in range(10):
        dealer.send_multipart([b"\xc1garbage"] if number % 2 else [*encode(viewer_hello("v")), b"part"])
        assert answer(dealer, Refusal).code == "message"
    dealer.send_multipart(encode(viewer_hello("v")))
    assert not dealer.poll(300)
    dealer.close()
    context.term()
    assert network.up(network.keys("observe", "quiet"), others=[agent])


def test_an_oversized_message_costs_only_its_sender_the_connection(network, agent):
    quiet = network.up(network.keys("observe", "quiet"), viewer_hello("quiet"), [agent])
    context = zmq.Context()
    dealer = raw_viewer(context, network, network.keys("control", "large"))
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.send(b"x" * 65_537)
    assert monitor.poll(SECONDS * 1000)
    dealer.disable_monitor()
    monitor.close()
    dealer.close()
    context.term()
    quiet.send(Runs())
    assert first(quiet, Runs, [agent])


def test_one_key_has_at_most_sixteen_viewers_and_leaves_room_for_others(network, agent):
    keys = network.keys("observe", "many")
    links = [network.up(keys, viewer_hello(f"v{i}"), [agent]) for i in range(16)]
    refused = network.link(keys, viewer_hello("v16"))
    receive(refused, lambda _: refused.state.phase == "refused", [agent, *links], SECONDS)
    assert "16 of them with the key 'many'" in refused.state.reason
    assert VIEWER_LIMIT > 16
    assert network.up(network.keys("observe", "one"), viewer_hello("one"), [agent, *links])
    links[0].close(Bye(reason="done"))
    receive(refused, lambda _: refused.state.phase == "up", [agent, *links[1:]])


def test_a_viewer_that_stops_reading_delays_neither_others_nor_its_own_end(network, agent):
    context = zmq.Context()
    slow = raw_viewer(context, network, network.keys("observe", "slow"), receive_queue=1)
    slow.send_multipart(encode(viewer_hello("slow")))
    assert answer(slow)
    for message in (Subscribe(run="r", max_rate_hz=1_000.0), Credit(count=10_000)):
        slow.send_multipart(encode(message))
    fast = network.up(network.keys("observe", "fast"), viewer_hello("fast"), [agent])
    for message in (Subscribe(run="r", max_rate_hz=1_000.0), Credit(count=10_000)):
        fast.send(message)
    newest = -1
    for number in range(200):  # of 200 kB: more than all queues of the slow viewer take
        step = Step(
            run="r", rank=0, seq=number, step=number, time_s=0.0, manifest_revision=1, kinds=(), rows=0,
            columns=(), body=b"x" * 200_000,
        )  # fmt: skip
        agent.send(step)
        found = receive(
            fast, lambda found, n=number: any(m.step == n for m in steps_of(found)), [agent]
        )
        newest = steps_of(found)[-1].step
    assert newest == 199
    revoke("slow")
    receive(agent, lambda found: peers_of(found) == ("fast",), [fast])
    slow.close()
    context.term()


def steps_of(messages: list[Message]) -> list[Step]:
    return [message for message in messages if isinstance(message, Step)]


# What is not served at all.


def test_without_a_hub_a_viewer_reads_that_no_run_is_live(places):
    public, secret = (key.decode() for key in zmq.curve_keypair())
    authorize("laptop", public, "observe")
    server = own_server_key(may_create=True)
    with serving() as served:
        link = Link(served.address, viewer_hello("v"), keys=CurveKeys(public, secret, server.public))
        receive(link, lambda _: link.state.phase == "refused", timeout_s=SECONDS)
        link.close()
    assert link.state.code == "run"
    assert "no run is live on that machine" in link.state.reason


@pytest.fixture
def gradscope() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return fork_server.run(
            [sys.executable, "-m", "gradscope", *arguments],
            preload=["gradscope.cli.app", "gradscope.hub.network.gateway"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("bind", ["tcp://*:0", "tcp://0.0.0.0:0", "tcp://127.0.0.1:0"])
def test_nothing_listens_without_keys(places, gradscope, bind):
    ran = gradscope("serve", "--bind", bind)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "gradscope key authorize" in ran.stderr
    own_server_key(may_create=True)
    ran = gradscope("serve", "--bind", bind)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "expected an authorized key, found none" in ran.stderr


@pytest.mark.parametrize(
    "bind", ["ipc:///tmp/x", "tcp://host", "0.0.0.0:1", "tcp://a:99999", "inproc://x"]
)
def test_only_tcp_can_be_served(places, gradscope, bind):
    ran = gradscope("serve", "--bind", bind)
    assert ran.returncode == 2
    assert "expected --bind tcp://HOST:PORT" in ran.stderr


def test_a_libzmq_without_curve_is_named(monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda _: False)
    with pytest.raises(UsageError, match=r"expected a libzmq with CurveZMQ.*pip install"):
        require_curve()


# Files and directories.


def made_unsafe(path: Path, how: str) -> str:
    """Make a file or directory unsafe; return what the error says about it."""
    if how == "link":
        moved = path.with_name(path.name + "-moved")
        path.rename(moved)
        path.symlink_to(moved)
        return "symbolic link"
    if how == "open":
        path.chmod(0o755 if path.is_dir() else 0o644)
        return "open to other users"
    os.chown(path, 65534, -1)
    return "belongs to user 65534"


HOW = [
    "link",
    "open",
    pytest.param(
        "owner",
        marks=pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user"),
    ),
]


@pytest.mark.parametrize("how", HOW)
def test_a_keys_directory_that_is_not_private_is_refused(places, gradscope, how):
    new_key_pair("viewer")
    words = made_unsafe(places / "data" / "keys", how)
    for read in (own_keys, own_key, AuthorizedKeys, lambda: new_key_pair("b"), lambda: revoke("x")):
        with pytest.raises(UnsafePathError, match=words):
            read()
    for arguments in (
        ["key", "list"],
        ["serve", "--bind", "tcp://127.0.0.1:0"],
        ["ls", "tcp://127.0.0.1:1"],
    ):
        ran = gradscope(*arguments)
        assert ran.returncode == 3, ran
        assert words in ran.stderr


@pytest.mark.parametrize("how", HOW)
def test_a_key_file_that_is_not_private_is_refused(places, how):
    pair = new_key_pair("viewer")
    assert pair.path.stat().st_mode & 0o777 == 0o600
    assert pair.path.parent.stat().st_mode & 0o777 == 0o700
    made_unsafe(pair.path, how)
    with pytest.raises(UnsafePathError, match=r"viewer\.key"):
        own_key()


@pytest.mark.parametrize("how", HOW)
def test_the_authorized_keys_are_not_used_if_others_may_have_changed_them(own_network, how):
    network = own_network
    viewer = network.up(network.keys("control"))
    assert viewer.state.phase == "up"
    path = AuthorizedKeys()._path
    assert path.stat().st_mode & 0o777 == 0o600
    made_unsafe(path, how)
    assert network.process.wait(SECONDS) == 3
    assert "authorized.json" in network.process.stderr.read()


def test_a_key_file_whose_halves_do_not_match_is_refused(places):
    pair, other = new_key_pair("viewer"), new_key_pair("other")
    mixed = json.loads(pair.path.read_text()) | {"curve_publickey": other.public}
    pair.path.write_text(json.dumps(mixed))
    with pytest.raises(UnsafePathError, match="not that of its secret key"):
        own_key()
    pair.path.write_text("{}")
    with pytest.raises(UnsafePathError, match="not a key file"):
        own_keys()


def test_a_key_is_never_replaced_in_silence(places):
    first_key, second_key = (zmq.curve_keypair()[0].decode() for _ in range(2))
    new_key_pair("viewer")
    with pytest.raises(UsageError, match="exists"):
        new_key_pair("viewer")
    authorize("laptop", first_key, "observe")
    with pytest.raises(
        UsageError, match=r"another key is authorized as laptop.*gradscope key revoke laptop"
    ):
        authorize("laptop", second_key, "observe")
    with pytest.raises(UsageError, match="already authorized as laptop"):
        authorize("again", first_key, "control")
    authorize("tcp://host:1", first_key, "server")
    with pytest.raises(UsageError, match="is not replaced"):
        authorize("tcp://host:1", second_key, "server")
    assert [key.role for key in AuthorizedKeys().all()] == ["observe", "server"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65])
def test_a_name_cannot_leave_the_directory(places, name):
    with pytest.raises(UsageError, match="expected a name"):
        new_key_pair(name)
    with pytest.raises(UsageError, match="expected a name"):
        authorize(name, "x" * 40, "observe")


# `connect` and the command.


@pytest.fixture
def laptop(
    network: Network, monkeypatch: pytest.MonkeyPatch, places: Path
) -> Iterator[SimpleNamespace]:
    """Another user's places, with a key that may observe."""
    there = os.environ["GRADSCOPE_DATA_DIR"]
    monkeypatch.setenv("GRADSCOPE_DATA_DIR", str(places / "laptop"))
    pair = new_key_pair("viewer")
    monkeypatch.setenv("GRADSCOPE_DATA_DIR", there)
    authorize("laptop", pair.public, "observe")
    monkeypatch.setenv("GRADSCOPE_DATA_DIR", str(places / "laptop"))
    monkeypatch.setenv("GRADSCOPE_RUNTIME_DIR", str(places / "none"))
    yield SimpleNamespace(address=network.address, server=network.server, pair=pair)
    monkeypatch.setenv("GRADSCOPE_DATA_DIR", there)


def test_connect_needs_the_key_of_the_server_first_and_then_no_more(laptop):
    with pytest.raises(
        UsageError, match=rf"gradscope key authorize PUBLICKEY --server {laptop.address}"
    ):
        connect(laptop.address)
    authorize(laptop.address, laptop.server, "server")
    with connect(laptop.address) as client:
        assert client.link.phase == "up"
    with pytest.raises(NothingToConnectError, match="there is no run 'x'"):
        connect(f"{laptop.address}/x")
    new_key_pair("second")
    with pytest.raises(UsageError, match="GRADSCOPE_KEY"):
        connect(laptop.address)


def test_connect_to_a_server_with_another_key_than_the_authorized_one_fails(laptop):
    authorize(laptop.address, zmq.curve_keypair()[0].decode(), "server")
    begin_s = time.monotonic()
    with pytest.raises(LinkError, match="another key than"):
        connect(laptop.address)
    assert time.monotonic() - begin_s < SECONDS


def test_connect_with_a_key_that_is_not_authorized_fails_at_once(laptop, monkeypatch):
    authorize(laptop.address, laptop.server, "server")
    new_key_pair("second")
    monkeypatch.setenv("GRADSCOPE_KEY", "second")
    with pytest.raises(LinkError, match=r"refused.*not authorized there"):
        connect(laptop.address)


def test_connect_without_a_key_says_how_to_make_one(places):
    with pytest.raises(UsageError, match="gradscope key new"):
        connect("tcp://127.0.0.1:1")


# On this machine.


def test_the_hub_refuses_the_command_of_an_observer(network, agent, bring_up):
    viewer = bring_up(network.hub.viewers, viewer_hello("v", "observe"))
    viewer.send(command("v"))
    ack = first(viewer, Ack, [agent])
    assert (ack.is_done, "observe only" in ack.reason) == (False, True)
    assert not any(isinstance(m, Command) for m in agent.receive(0.2))


def test_an_agent_refuses_a_command_of_a_viewer_that_the_hub_has_not_named_as_a_controller(places):
    """The test is the hub: it forwards what a hub would refuse."""
    address = hub_address()
    address.directory.mkdir(mode=0o700)
    context = zmq.Context()
    agents, viewers = (context.socket(zmq.ROUTER) for _ in range(2))
    for router, path in ((agents, address.agents), (viewers, address.viewers)):
        router.setsockopt(zmq.LINGER, 0)
        router.bind(path)
    obeyed: list[Command] = []
    publisher = Publisher(None, AGENT)
    publisher.start(announce=list, on_command=obeyed.append, on_viewers=lambda _: None)
    acks: list[Ack] = []
    deadline_s = time.monotonic() + DEADLINE_S
    while len(acks) < 2 or not obeyed:
        assert time.monotonic() < deadline_s, (acks, obeyed)
        if viewers.poll(10):
            asker, *_ = viewers.recv_multipart()
            viewers.send_multipart([asker, *encode(Who(epoch="e"))])
        if not agents.poll(10):
            continue
        route, *parts = agents.recv_multipart()
        message = decode(parts)
        if isinstance(message, Hello):
            heartbeat = Heartbeat(peers=("observer", "controller"), controllers=("controller",))
            sent = (
                Welcome(epoch="e", role="agent"), command("controller", 1), heartbeat,
                command("observer", 2), command("controller", 3),
            )  # fmt: skip
            for each in sent:
                agents.send_multipart([route, *encode(each)])
        elif isinstance(message, Ack):
            acks.append(message)
    publisher.stop(Bye(reason="done"))
    for router in (agents, viewers):
        router.close()
    context.term()
    assert [(ack.command[-1], ack.is_done) for ack in acks] == [(1, False), (2, False)]
    assert "may only observe" in acks[1].reason
    assert [each.id[-1] for each in obeyed] == [3]


def test_another_version_is_an_error_of_its_own_in_connect(hub, monkeypatch):
    monkeypatch.setattr("gradscope.client.connection.Hello", lambda **f: Hello(**f, protocol=2))
    with pytest.raises(IncompatibleError, match="got 2"):
        connect()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_cannot_reach_the_sockets_nor_the_keys(hub):
    new_key_pair("viewer")
    keys = Path(os.environ["GRADSCOPE_DATA_DIR"]) / "keys"
    script = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in ({str(hub.viewers_path)!r}, {str(hub.agents_path)!r}):
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(path)
        except PermissionError:
            print("refused")
try:
    open({str(keys / "viewer.key")!r})
except PermissionError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n" * 3


def network_sockets(pid: int) -> set[str]:
    """Return the network sockets of a process: lines of /proc/net, which all start with their protocol."""
    links = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    mine = {str(link)[8:-1] for link in links if str(link).startswith("socket:[")}
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        lines = Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]
        found |= {f"{protocol} {line.split()[1]}" for line in lines if line.split()[9] in mine}
    return found


TRAINING = """
import time, torch, gradscope
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scope = gradscope.attach(model, optimizer, name="t", control=False, quiet=True, record=False)
while True:
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    time.sleep(0.01)
"""


@pytest.fixture
def training(hub: HubAddress) -> Iterator[subprocess.Popen]:
    """A training without control, whose run `t` is live."""
    process = fork_server.Popen([sys.executable, "-c", TRAINING], stderr=subprocess.DEVNULL)
    try:
        with connect(want="observe") as client:
            wait_for(lambda: any(info.step for info in client.runs()), "the first step")
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs /proc")
def test_no_process_has_a_socket_of_the_network_unless_it_serves(training, hub_pid):
    before = network_sockets(os.getpid())
    with connect("t", want="observe") as client:
        assert client.latest(DEADLINE_S)
        pids = training.pid, hub_pid(), os.getpid()
        assert [network_sockets(pid) - before for pid in pids] == [set()] * 3
    own_server_key(may_create=True)
    authorize("laptop", zmq.curve_keypair()[0].decode(), "observe")
    with serving() as served:
        (listener,) = network_sockets(served.process.pid)
        assert listener.startswith("tcp 0100007F:")  # 127.0.0.1
        assert not network_sockets(training.pid)
        assert not network_sockets(hub_pid())


def test_a_run_without_control_refuses_every_command_of_a_key_that_may_control(training, own_network):
    network = own_network
    viewer = network.up(network.keys("control"))
    for number, action in enumerate(get_args(Command.__annotations__["action"]), 1):
        viewer.send(msgspec.structs.replace(command("remote", number, "t"), action=action))
        ack = first(viewer, Ack)
        assert not ack.is_done
        assert "control=False" in ack.reason, action
