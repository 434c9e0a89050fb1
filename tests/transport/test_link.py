import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from gradscope.protocol import (
    PROTOCOL_VERSION,
    Bye,
    Event,
    Heartbeat,
    Hello,
    Manifest,
    Message,
    Refusal,
    Runs,
    Welcome,
    decode,
    encode,
)
from gradscope.transport import HubAddress, Link, ensure_hub, hub_answers, hub_listens
from support.waiting import DEADLINE_S

AGENT = Hello(role="agent", peer="agent-1", run="r", record="")
VIEWER = Hello(role="viewer", peer="viewer-1", want="control")

Up = Callable[[str, Hello], Link]


def receive_until(link: Link, condition: Callable[[], object]) -> list[Message]:
    deadline_s = time.monotonic() + DEADLINE_S
    messages: list[Message] = []
    while not condition():
        assert time.monotonic() < deadline_s, link.state
        messages += link.receive(0.1)
    return messages


@pytest.fixture
def strange_hub(places: object) -> Iterator[tuple[str, "zmq.Socket[bytes]"]]:
    """A bare ROUTER that says what a test makes it say."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        address = f"ipc://{places}/strange.sock"
        router.bind(address)
        yield address, router


def test_the_first_message_is_the_hubs_welcome(hub: HubAddress) -> None:
    with Link(hub.agents, AGENT) as link:
        assert link.state.phase == "connecting"
        messages = receive_until(link, lambda: link.state.phase == "up")
        assert [type(m) for m in messages] == [Welcome]
        assert link.state.epoch == messages[0].epoch  # type: ignore[union-attr]
        assert link.state.last_message_s is not None


def test_without_a_link_nothing_is_sent_and_each_is_counted(hub: HubAddress) -> None:
    with Link(hub.agents, AGENT) as link:
        assert not link.send(Heartbeat())
        assert not link.send(Heartbeat())
        assert link.counters["dropped"] == 2


def test_what_is_too_large_is_withheld_and_counted(hub: HubAddress, bring_up: Up) -> None:
    link = bring_up(hub.agents, AGENT)
    too_large = Event(run="r", rank=0, step=0, time_s=0.0, level="info", code="x", text="x" * 300_000)
    assert not link.send(too_large)
    assert link.counters["withheld"] == 1
    assert link.state.phase == "up"


def test_a_manifest_of_many_parts_passes(hub: HubAddress, bring_up: Up) -> None:
    link = bring_up(hub.agents, AGENT)
    assert link.send(Manifest(run="r", rank=0, revision=1, model="m", body=b"x" * 5_000_000))
    receive_until(link, lambda: link.counters["received"] > 2)
    assert "garbage" not in link.counters


@pytest.mark.timing
def test_a_hub_that_is_killed_is_noticed_and_the_next_one_gets_a_hello(
    hub: HubAddress, hub_pid: Callable[[], int], bring_up: Up
) -> None:
    link = bring_up(hub.agents, AGENT)
    first = link.state.epoch
    os.kill(hub_pid(), signal.SIGKILL)
    begin_s = time.monotonic()
    receive_until(link, lambda: link.state.phase == "lost")
    assert time.monotonic() - begin_s < 1.0
    assert "closed the connection" in link.state.reason
    ensure_hub()
    messages = receive_until(link, lambda: link.state.phase == "up")
    assert isinstance(messages[0], Welcome)
    assert link.state.epoch != first
    assert link.counters["reconnects"] == 1


@pytest.mark.timing
def test_a_hub_that_says_nothing_for_six_seconds_is_lost_and_found_again(
    hub: HubAddress, hub_pid: Callable[[], int], bring_up: Up
) -> None:
    link = bring_up(hub.agents, AGENT)
    epoch = link.state.epoch
    begin_s = time.monotonic()
    os.kill(hub_pid(), signal.SIGSTOP)
    try:
        receive_until(link, lambda: link.state.phase == "lost")
    finally:
        os.kill(hub_pid(), signal.SIGCONT)
    assert 3.0 < time.monotonic() - begin_s < 8.5
    receive_until(link, lambda: link.state.phase == "up")
    assert link.state.epoch == epoch


def test_another_version_is_refused_by_the_hub_with_both_versions_in_the_reason(
    hub: HubAddress,
) -> None:
    hello = Hello(role="agent", peer="new", run="r", protocol=PROTOCOL_VERSION + 1, version="9.9")
    with Link(hub.agents, hello) as link:
        messages = receive_until(link, lambda: link.state.phase == "refused")
        assert link.state.code == "version"
        assert (
            f"version {PROTOCOL_VERSION} of the protocol, got {PROTOCOL_VERSION + 1}"
            in link.state.reason
        )
        assert "9.9" in link.state.reason
        assert isinstance(messages[-1], Refusal)
        assert not link.send(Heartbeat())


def test_a_hub_of_another_version_is_refused_by_the_link(
    strange_hub: tuple[str, "zmq.Socket[bytes]"],
) -> None:
    address, router = strange_hub
    with Link(address, AGENT) as link:
        receive_until(link, lambda: router.poll(0))
        route, *parts = router.recv_multipart()
        assert decode(parts) == AGENT
        welcome = Welcome(
            epoch="e", role="agent", protocol=PROTOCOL_VERSION + 1, version="9.9", hub_pid=7
        )
        router.send_multipart([route, *encode(welcome)])
        receive_until(link, lambda: link.state.phase == "refused")
        assert link.state.code == "version"
        assert f"version {PROTOCOL_VERSION + 1}" in link.state.reason
        assert "process 7" in link.state.reason


def test_garbage_from_a_hub_is_counted_and_before_the_welcome_it_is_another_version(
    strange_hub: tuple[str, "zmq.Socket[bytes]"],
) -> None:
    address, router = strange_hub
    with Link(address, AGENT) as link:
        receive_until(link, lambda: router.poll(0))
        route, *_ = router.recv_multipart()
        router.send_multipart([route, b"\xc1 no message"])
        receive_until(link, lambda: link.state.phase == "refused")
        assert link.counters["garbage"] == 1
        router.send_multipart([route, *encode(Welcome(epoch="e", role="agent"))])
        receive_until(link, lambda: link.state.phase == "up")
        router.send_multipart([route, b"\xc1 no message"])
        receive_until(link, lambda: link.counters["garbage"] == 2)
        assert link.state.phase == "up"


def test_the_wrong_socket_is_reported(hub: HubAddress) -> None:
    with Link(hub.viewers, AGENT) as link:
        receive_until(link, lambda: link.state.phase == "refused")
        assert link.state.code == "role"
        assert "viewers" in link.state.reason


def test_a_forked_child_leaves_the_link_to_its_parent(hub: HubAddress, bring_up: Up) -> None:
    link = bring_up(hub.agents, AGENT)
    child = os.fork()
    if child == 0:
        is_left_alone = not link.send(Heartbeat()) and link.receive(5.0) == []
        link.wake()
        link.close(Bye(reason="not mine"))
        del link
        os._exit(0 if is_left_alone else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert link.send(Heartbeat())
    messages = receive_until(link, lambda: link.counters["received"] >= 3)
    assert all(isinstance(m, Heartbeat) for m in messages)
    assert link.state.phase == "up"
    assert link.counters.get("reconnects", 0) == 0


def test_wake_ends_a_wait_from_another_thread(hub: HubAddress, bring_up: Up) -> None:
    link = bring_up(hub.viewers, VIEWER)
    link.receive(0.2)
    waker = threading.Timer(0.1, link.wake)
    waker.start()
    begin_s = time.monotonic()
    while not waker.finished.is_set():
        link.receive(60.0)
    assert time.monotonic() - begin_s < 30.0
    waker.join()


@pytest.mark.timing
def test_a_bye_arrives_at_once(hub: HubAddress, bring_up: Up) -> None:
    viewer = bring_up(hub.viewers, VIEWER)
    agent = bring_up(hub.agents, AGENT)
    receive_until(viewer, lambda: True)
    agent.close(Bye(reason="the script ended"))
    seen: list[Message] = []
    begin_s = time.monotonic()
    while not any(isinstance(m, Runs) and m.runs and not m.runs[0].is_live for m in seen):
        seen += viewer.receive(0.5)
        assert time.monotonic() - begin_s < 3.0


@pytest.mark.timing
def test_closing_towards_a_stopped_hub_takes_less_than_a_second(
    hub: HubAddress, hub_pid: Callable[[], int], bring_up: Up
) -> None:
    link = bring_up(hub.agents, AGENT)
    os.kill(hub_pid(), signal.SIGSTOP)
    begin_s = time.monotonic()
    try:
        while link.send(Manifest(run="r", rank=0, revision=1, model="m", body=b"x" * 200_000)):
            pass
        link.close(Bye(reason="going"))
        assert time.monotonic() - begin_s < 1.5
    finally:
        os.kill(hub_pid(), signal.SIGCONT)


def test_a_link_without_a_hub_waits_without_an_error(
    places: object, wait_until: Callable[..., None]
) -> None:
    with Link(f"ipc://{places}/missing.sock", AGENT) as link:
        assert link.receive(0.2) == []
        assert link.state.phase == "connecting"


def test_a_hub_that_is_ended_says_why(
    hub: HubAddress, hub_pid: Callable[[], int], bring_up: Up, wait_until: Callable[..., None]
) -> None:
    link = bring_up(hub.agents, AGENT)
    os.kill(hub_pid(), signal.SIGTERM)
    receive_until(link, lambda: link.state.phase == "lost")
    assert link.state.reason == "the hub received a signal to end"
    wait_until(lambda: not hub_listens(hub), "the hub's end")
    wait_until(lambda: not hub.agents_path.exists(), "the socket's removal")


def test_each_of_a_hundred_links_in_a_row_is_up_at_once(hub: HubAddress) -> None:
    """None misses its own handshake, which would only be mended by six seconds of silence."""
    for i in range(100):
        begin_s = time.monotonic()
        with Link(hub.viewers, Hello(role="viewer", peer=f"viewer-{i}")) as link:
            receive_until(link, lambda link=link: link.state.phase == "up")  # type: ignore[misc]
            link.close(Bye(reason="done"))
        assert time.monotonic() - begin_s < 5.0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_not_let_in_even_where_the_files_would_allow_it(hub: HubAddress) -> None:
    for path, mode in (
        (hub.directory.parent, 0o755),
        (hub.directory, 0o755),
        (hub.viewers_path, 0o777),
    ):
        path.chmod(mode)
    asker = f"import os; os.setuid(65534); from gradscope.transport import *; \
a = hub_address('{hub.directory}'); print(hub_listens(a), hub_answers(a, 1.0))"
    done = subprocess.run(
        [sys.executable, "-c", f"import gradscope.transport; {asker}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True False\n"
    assert hub_answers(hub, DEADLINE_S)
