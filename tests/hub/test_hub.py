"""The hub as a process, with real links of simple agents and viewers."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradscope.errors import GradscopeError
from gradscope.protocol import (
    Ack,
    Backfill,
    Bye,
    Command,
    Credit,
    Event,
    Heartbeat,
    Hello,
    Interventions,
    Manifest,
    Message,
    Refusal,
    RunInfo,
    Runs,
    Scalars,
    Skipped,
    Step,
    Subscribe,
    Welcome,
    Who,
    decode,
    encode,
    pack_layers,
)
from gradscope.recording import open_recording
from gradscope.transport import HubAddress, Link, ensure_hub, hub_address, hub_answers, hub_listens
from support.waiting import DEADLINE_S

Up = Callable[[str, Hello], Link]
M = TypeVar("M", bound=Message)

MANIFEST = Manifest(run="r", rank=0, revision=1, model="Net", body=pack_layers([]))
INTERVENTIONS = Interventions(run="r", rank=0, revision=1, step=0)
EVENT = Event(run="r", rank=0, step=0, time_s=1.0, level="info", code="c", text="hello")


def agent_hello(run: str = "r", peer: str = "agent", rank: int = 0, **rest: object) -> Hello:
    return Hello(role="agent", peer=peer, run=run, rank=rank, record="", **rest)  # type: ignore[arg-type]


def viewer_hello(peer: str = "viewer", want: str = "control") -> Hello:
    return Hello(role="viewer", peer=peer, want=want)  # type: ignore[arg-type]


def step(seq: int, run: str = "r", size: int = 0) -> Step:
    return Step(
        run=run, rank=0, seq=seq, step=seq, time_s=float(seq), manifest_revision=1, kinds=(), rows=0,
        columns=(), body=b"x" * size,
    )  # fmt: skip


def command(peer: str = "viewer", run: str = "r", number: int = 1) -> Command:
    return Command(
        id=number.to_bytes(16, "big"), run=run, peer=peer, action="install", intervention="clip",
        arguments={"max_norm": 1.0}, layers=("fc",),
    )  # fmt: skip


def until(link: Link, kind: type[M], others: Sequence[Link] = (), count: int = 1) -> list[M]:
    """Receive on a link until `count` messages of a kind came, keeping other links alive."""
    deadline_s = time.monotonic() + DEADLINE_S
    found: list[M] = []
    while len(found) < count:
        assert time.monotonic() < deadline_s, (kind, link.state, link.counters, found)
        found += [m for m in link.receive(0.02) if isinstance(m, kind)]
        for other in others:
            other.receive(0.0)
    return found


def stream(link: Link, others: Sequence[Link] = (), until_kind: type = Backfill) -> list[Message]:
    """Receive until the end of the backfill; return all but heartbeats and lists of runs."""
    deadline_s = time.monotonic() + DEADLINE_S
    messages: list[Message] = []
    while not (messages and isinstance(messages[-1], Backfill) and messages[-1].state == "end"):
        assert time.monotonic() < deadline_s, messages
        messages += [m for m in link.receive(0.02) if not isinstance(m, Heartbeat | Runs | Welcome)]
        for other in others:
            other.receive(0.0)
    return messages


def settle(viewer: Link, agent: Link, condition: Callable[[RunInfo], bool]) -> RunInfo:
    """Ask for the runs until the agent's is as wanted: what it sent before has arrived then."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        viewer.send(Runs())
        for runs in until(viewer, Runs, [agent]):
            for info in runs.runs:
                if condition(info):
                    return info
        assert time.monotonic() < deadline_s


def test_a_late_viewer_gets_manifest_interventions_and_history(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    scalars = [
        Scalars(run="r", rank=0, steps=(i,), times_s=(i / 1,), values={"loss": (1.0,)})
        for i in range(3)
    ]
    for message in (MANIFEST, INTERVENTIONS, EVENT, *scalars, *(step(i, size=10) for i in range(5))):
        assert agent.send(message)
    viewer = bring_up(hub.viewers, viewer_hello())
    settle(viewer, agent, lambda info: info.step == 4)
    viewer.send(Subscribe(run="r"))
    viewer.send(Credit(count=100))
    merged = Scalars(
        run="r", rank=0, steps=(0, 1, 2), times_s=(0.0, 1.0, 2.0), values={"loss": (1.0, 1.0, 1.0)}
    )
    assert stream(viewer, [agent]) == [
        MANIFEST,
        INTERVENTIONS,
        Backfill(run="r", state="begin", count=7),
        merged,
        EVENT,
        *(step(i, size=10) for i in range(5)),
        Backfill(run="r", state="end", count=7),
    ]
    agent.send(step(5))
    assert until(viewer, Step, [agent]) == [step(5)]


def _recorded_steps(path: Path) -> list[int]:
    try:
        with open_recording(path) as recording:
            return [each.step for each in recording.steps()]
    except GradscopeError:
        return []


def test_focus_steps_reach_connected_viewers_and_are_neither_kept_nor_recorded(
    hub: HubAddress, bring_up: Up, places: Path, wait_until: Callable[..., None]
) -> None:
    recorded = Hello(role="agent", peer="agent", run="r", record=str(places / "r.gscope"))
    agent = bring_up(hub.agents, recorded)
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(Subscribe(run="r", backfill=False))
    viewer.send(Credit(count=10))
    focus_step = Step(
        run="r",
        rank=0,
        seq=0,
        layers="focus",
        step=3,
        time_s=1.0,
        manifest_revision=1,
        kinds=(),
        rows=0,
        columns=(),
        body=b"x",
    )
    other = msgspec.structs.replace(focus_step, run="other")
    agent.send(MANIFEST)
    until(viewer, Manifest, [agent])
    agent.send(focus_step)
    assert until(viewer, Step, [agent]) == [focus_step]
    agent.send(other)
    assert until(agent, Refusal, [viewer])[0].code == "run"
    late = bring_up(hub.viewers, viewer_hello("late"))
    late.send(Subscribe(run="r"))
    late.send(Credit(count=10))
    assert not any(isinstance(m, Step) for m in stream(late, [agent, viewer]))
    agent.send(step(4))
    info = settle(late, agent, lambda info: info.step == 4)
    assert info.recording == str(places / "r.gscope")
    agent.close(Bye(reason="done"))
    wait_until(lambda: _recorded_steps(places / "r.gscope") == [4], "the end of the recording")


def test_a_viewer_without_backfill_gets_the_state_only(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    agent.send(MANIFEST)
    agent.send(step(0))
    viewer = bring_up(hub.viewers, viewer_hello())
    settle(viewer, agent, lambda info: info.step == 0)
    viewer.send(Subscribe(run="r", backfill=False, number=7))
    viewer.send(Credit(count=100))
    begin, end = (Backfill(run="r", state=state, count=0, number=7) for state in ("begin", "end"))  # type: ignore[arg-type]
    assert stream(viewer, [agent]) == [MANIFEST, begin, end]


def test_a_message_of_many_parts_arrives_unchanged(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(Subscribe(run="r"))
    viewer.send(Credit(count=10))
    stream(viewer, [agent])
    large = step(1, size=3_000_000)
    agent.send(large)
    assert until(viewer, Step, [agent]) == [large]


def test_a_viewer_without_credit_does_not_hold_up_another(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    slow = bring_up(hub.viewers, viewer_hello("slow"))
    quick = bring_up(hub.viewers, viewer_hello("quick"))
    for viewer in (slow, quick):
        viewer.send(Subscribe(run="r", max_rate_hz=1_000.0))
    quick.send(Credit(count=1_000))
    stream(slow, [agent, quick])
    got: list[Step] = []
    for i in range(100):
        agent.send(step(i))
        got += until(quick, Step, [agent])
    assert got == [step(i) for i in range(100)]
    assert agent.counters.get("dropped", 0) == 0
    slow.send(Credit(count=1))
    messages = [m for m in until_step(slow) if isinstance(m, Skipped | Step)]
    assert messages == [Skipped(run="r", rank=0, count=99, step=98), step(99)]


def until_step(link: Link) -> list[Message]:
    deadline_s = time.monotonic() + DEADLINE_S
    messages: list[Message] = []
    while not any(isinstance(m, Step) for m in messages):
        assert time.monotonic() < deadline_s
        messages += link.receive(0.05)
    return messages


STOPPED_VIEWER = """
import sys, time
from gradscope.protocol import Credit, Hello, Subscribe
from gradscope.transport import Link
with Link(sys.argv[1], Hello(role="viewer", peer="stopped")) as link:
    while link.state.phase != "up":
        link.receive(1)
    link.send(Subscribe(run="r", max_rate_hz=1000.0)); link.send(Credit(count=10_000))
    print("up", flush=True)
    while True:
        link.receive(1)
"""


def test_a_stopped_viewer_slows_neither_the_agent_nor_others(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    quick = bring_up(hub.viewers, viewer_hello("quick"))
    quick.send(Subscribe(run="r", max_rate_hz=1_000.0))
    quick.send(Credit(count=10_000))
    stream(quick, [agent])
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED_VIEWER, hub.viewers], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGSTOP)
        begin_s = time.monotonic()
        for i in range(500):
            assert agent.send(step(i, size=100_000))
            assert until(quick, Step, [agent])[-1].seq == i
        assert time.monotonic() - begin_s < DEADLINE_S
    finally:
        process.kill()
        process.communicate()
    assert agent.counters.get("dropped", 0) == 0


def test_a_command_goes_to_rank_0_and_its_answer_to_its_viewer(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    other_rank = bring_up(hub.agents, agent_hello(peer="agent-1", rank=1))
    viewer = bring_up(hub.viewers, viewer_hello())
    other = bring_up(hub.viewers, viewer_hello("other"))
    viewer.send(command())
    assert until(agent, Command, [viewer, other]) == [command()]
    ack = Ack(command=command().id, run="r", is_done=True, step=7, id="i1", layers=("fc",))
    agent.send(ack)
    assert until(viewer, Ack, [agent]) == [ack]
    assert not [m for m in other.receive(0.2) if isinstance(m, Ack)]
    assert not [m for m in other_rank.receive(0.2) if isinstance(m, Command)]


def test_the_state_that_a_command_changed_is_sent_before_its_answer(
    hub: HubAddress, bring_up: Up
) -> None:
    agent = bring_up(hub.agents, agent_hello())
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(Subscribe(run="r"))
    stream(viewer, [agent])
    viewer.send(command())
    until(agent, Command, [viewer])
    agent.send(INTERVENTIONS)
    agent.send(Ack(command=command().id, run="r", is_done=True, step=7))
    deadline_s = time.monotonic() + DEADLINE_S
    order: list[type] = []
    while Ack not in order:
        assert time.monotonic() < deadline_s
        order += [type(m) for m in viewer.receive(0.1) if isinstance(m, Interventions | Ack)]
    assert order == [Interventions, Ack]


def test_a_repeated_command_is_answered_with_the_first_answer(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(command())
    until(agent, Command, [viewer])
    ack = Ack(command=command().id, run="r", is_done=True, step=7)
    agent.send(ack)
    assert until(viewer, Ack, [agent]) == [ack]
    viewer.send(command())
    assert until(viewer, Ack, [agent]) == [ack]
    assert not [m for m in agent.receive(0.2) if isinstance(m, Command)]


def test_an_agent_that_reconnects_receives_the_commands_again_that_it_has_not_answered(
    hub: HubAddress, bring_up: Up
) -> None:
    viewer = bring_up(hub.viewers, viewer_hello())
    agent = bring_up(hub.agents, agent_hello())
    viewer.send(command())
    assert until(agent, Command, [viewer]) == [command()]
    agent.close()  # without a bye, as if its link had broken
    with Link(hub.agents, agent_hello()) as again:
        assert until(again, Command, [viewer]) == [command()]
        ack = Ack(command=command().id, run="r", is_done=True, step=7)
        again.send(ack)
        assert until(viewer, Ack, [again]) == [ack]
    with Link(hub.agents, agent_hello()) as answered:
        until(answered, Welcome, [viewer])
        assert not [m for m in answered.receive(0.2) if isinstance(m, Command)]


@pytest.mark.parametrize(
    ("want", "asked", "reason"),
    [
        ("observe", command(), "observe only"),
        ("control", command(peer="somebody"), "names the peer 'somebody'"),
        ("control", command(run="unknown"), "no run 'unknown'"),
        ("control", command(run="ended"), "'ended' has ended"),
    ],
    ids=["role observe", "another's peer id", "unknown run", "ended run"],
)
def test_a_command_is_refused(
    hub: HubAddress, bring_up: Up, want: str, asked: Command, reason: str
) -> None:
    agent = bring_up(hub.agents, agent_hello())
    bring_up(hub.agents, agent_hello("ended", peer="ended")).close(Bye(reason="over"))
    viewer = bring_up(hub.viewers, viewer_hello(want=want))
    settle(viewer, agent, lambda info: info.run == "ended" and not info.is_live)
    viewer.send(asked)
    (ack,) = until(viewer, Ack, [agent])
    assert not ack.is_done
    assert ack.command == asked.id
    assert reason in ack.reason
    assert not [m for m in agent.receive(0.1) if isinstance(m, Command)]


def test_a_command_is_answered_when_its_run_says_bye(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(command())
    until(agent, Command, [viewer])
    agent.close(Bye(reason="the script ended"))
    (ack,) = until(viewer, Ack)
    assert not ack.is_done
    assert "ended before the command took effect: the script ended" in ack.reason


def test_an_id_that_another_viewer_used_is_refused(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    first, second = (bring_up(hub.viewers, viewer_hello(name)) for name in ("first", "second"))
    first.send(command(peer="first"))
    until(agent, Command, [first])
    second.send(command(peer="second"))
    (ack,) = until(second, Ack, [agent, first])
    assert "another command has used this id" in ack.reason


@pytest.mark.parametrize(
    "message",
    [
        step(0, run="another"),
        Scalars(run="r", rank=0, steps=(1, 2), times_s=(1.0,), values={}),
        Runs(),
        command(),
    ],
    ids=["another run", "uneven lists", "a viewer's message", "a command"],
)
def test_a_message_that_an_agent_may_not_send_is_refused(
    hub: HubAddress, bring_up: Up, message: Message
) -> None:
    agent = bring_up(hub.agents, agent_hello())
    agent.send(message)
    assert until(agent, Refusal)
    assert agent.state.phase == "up"


@pytest.mark.parametrize("message", [step(0), Ack(command=b"", run="r", is_done=True), Credit(count=0)])
def test_a_message_that_a_viewer_may_not_send_is_refused(
    hub: HubAddress, bring_up: Up, message: Message
) -> None:
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(message)
    assert until(viewer, Refusal)
    assert viewer.state.phase == "up"


@pytest.fixture
def bare(hub: HubAddress) -> "zmq.Socket[bytes]":  # type: ignore[misc]  # a generator
    """A plain ZeroMQ socket connected to the agents' socket."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 5_000)
        dealer.connect(hub.agents)
        yield dealer


def test_an_unknown_peer_is_asked_who_it_is(bare: "zmq.Socket[bytes]") -> None:
    bare.send_multipart(encode(step(1)))
    assert isinstance(decode(bare.recv_multipart()), Who)


def test_garbage_is_answered_ten_times_and_then_ignored_while_others_are_served(
    hub: HubAddress, bare: "zmq.Socket[bytes]", bring_up: Up
) -> None:
    for i in range(10):
        bare.send_multipart([b"\xc1 garbage %d" % i])
        refusal = decode(bare.recv_multipart())
        assert isinstance(refusal, Refusal)
        assert refusal.code == "message"
    bare.send_multipart(encode(agent_hello()))
    assert not bare.poll(300)
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(Runs())
    (runs, *_) = until(viewer, Runs)
    assert runs.counters["garbage"] == 10
    assert runs.counters["ignored"] == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=400), min_size=1, max_size=70))
def test_no_bytes_end_the_hub(hub: HubAddress, parts: list[bytes]) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(hub.agents)
        dealer.send_multipart(parts)
        assert dealer.poll(5_000)
        assert isinstance(decode(dealer.recv_multipart()), Refusal | Who)


def test_a_part_above_the_limit_of_the_socket_ends_only_its_connection(
    hub: HubAddress, bare: "zmq.Socket[bytes]"
) -> None:
    bare.send(b"x" * (2 * 2**20))
    assert not bare.poll(300)
    assert hub_answers(hub, DEADLINE_S)


def test_the_run_name_of_a_living_process_is_refused_and_that_of_a_dead_one_is_free(
    hub: HubAddress, bring_up: Up
) -> None:
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    dead = {"host": socket.gethostname(), "pid": gone.pid}
    bring_up(hub.agents, agent_hello(peer="first", **dead))
    bring_up(hub.agents, agent_hello(peer="second", **here))
    with Link(hub.agents, agent_hello(peer="third", **here)) as third:
        until(third, Refusal)
        assert third.state.phase == "refused"
        assert "'r' is already live in process" in third.state.reason


def test_another_process_of_the_same_name_starts_with_an_empty_history(
    hub: HubAddress, bring_up: Up
) -> None:
    first = bring_up(hub.agents, agent_hello(peer="first"))
    first.send(MANIFEST)
    first.send(step(41))
    first.close(Bye(reason="over"))
    second = bring_up(hub.agents, agent_hello(peer="second"))
    viewer = bring_up(hub.viewers, viewer_hello())
    settle(viewer, second, lambda info: info.is_live)
    viewer.send(Subscribe(run="r"))
    viewer.send(Credit(count=10))
    assert [type(m) for m in stream(viewer, [second])] == [Backfill, Backfill]


def test_an_ended_run_stays_listed_with_its_past(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello(script="train.py", started_s=12.0))
    agent.send(step(3))
    agent.close(Bye(reason="over"))
    viewer = bring_up(hub.viewers, viewer_hello())
    viewer.send(Runs())
    (runs, *_) = until(viewer, Runs)
    (info,) = runs.runs
    assert (info.run, info.is_live, info.step, info.script, info.started_s) == (
        "r",
        False,
        3,
        "train.py",
        12.0,
    )
    viewer.send(Subscribe(run="r"))
    viewer.send(Credit(count=10))
    assert step(3) in stream(viewer)


KILLED_AGENT = """
import os, socket, sys
from gradscope.protocol import Hello
from gradscope.transport import Link
where = dict(host=socket.gethostname(), pid=os.getpid())
with Link(sys.argv[1], Hello(role="agent", peer="killed", run="killed", record="", **where)) as link:
    while True:
        link.receive(1)
"""


@pytest.mark.timing
def test_a_killed_trainer_is_listed_as_ended_within_seconds(hub: HubAddress, bring_up: Up) -> None:
    viewer = bring_up(hub.viewers, viewer_hello())
    process = subprocess.Popen([sys.executable, "-c", KILLED_AGENT, hub.agents])
    settle(viewer, viewer, lambda info: info.is_live)
    process.kill()  # no one waits for it: the process stays in the table of processes
    begin_s = time.monotonic()
    while (info := until(viewer, Runs)[-1].runs[0]).is_live:
        assert time.monotonic() - begin_s < 15.0
    assert time.monotonic() - begin_s < 9.0
    assert info.reason == f"killed: process {process.pid} ended by a signal or by os._exit"
    assert info.has_failed
    process.wait()


def test_a_run_of_several_ranks_ends_for_the_reason_of_the_first_rank_that_failed(
    hub: HubAddress, bring_up: Up
) -> None:
    ranks = [
        bring_up(hub.agents, msgspec.structs.replace(agent_hello(rank=n, peer=str(n)), record=None))
        for n in range(3)
    ]
    viewer = bring_up(hub.viewers, viewer_hello())
    for rank in ranks:
        rank.send(msgspec.structs.replace(MANIFEST, rank=ranks.index(rank)))
    path = settle(viewer, viewer, lambda info: info.recording != "").recording
    ranks[1].close(Bye(reason="KeyError: 'x'", has_failed=True))
    settle(viewer, viewer, lambda info: info.has_failed)
    ranks[2].close(Bye(reason="detached"))
    ranks[0].close(Bye(reason="the process exited with code 1", has_failed=True))
    with open_recording(path) as recording:
        deadline_s = time.monotonic() + DEADLINE_S
        while recording.info.ended_s is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert recording.info.reason == "rank 1: KeyError: 'x'"


def test_heartbeats_list_for_agents_the_live_viewers(hub: HubAddress, bring_up: Up) -> None:
    agent = bring_up(hub.agents, agent_hello())
    viewer = bring_up(hub.viewers, viewer_hello("the-viewer"))
    while not any("the-viewer" in m.peers for m in until(agent, Heartbeat, [viewer])):
        pass
    viewer.close(Bye(reason="gone"))
    while any("the-viewer" in m.peers for m in until(agent, Heartbeat)):
        pass


def test_a_hub_ends_when_no_peer_is_left(
    places: Path, ended_hubs: None, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None],
    hub_pid: Callable[[], int], is_alive: Callable[[int], bool], bring_up: Up,
) -> None:  # fmt: skip
    monkeypatch.setenv("GRADSCOPE_HUB_IDLE_S", "0.5")
    address = ensure_hub()
    pid = hub_pid()
    viewer = bring_up(address.viewers, viewer_hello())
    deadline_s = time.monotonic() + 1.5
    while time.monotonic() < deadline_s:
        viewer.receive(0.1)
    assert is_alive(pid)
    viewer.close(Bye(reason="done"))
    wait_until(lambda: not is_alive(pid), "the hub's end")
    assert not hub_listens(address)
    assert not address.viewers_path.exists()
    assert (places / "run" / "hub.log").read_text() == ""


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_replaced_socket_file_is_bound_again(
    hub: HubAddress, wait_until: Callable[..., None], what: str
) -> None:
    hub.viewers_path.unlink()
    if what == "replaced":
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(hub.viewers_path))
    wait_until(lambda: hub_listens(hub), "the hub to listen again")
    assert hub_answers(hub, DEADLINE_S)


def test_a_removed_lock_is_acquired_again(hub: HubAddress, wait_until: Callable[..., None]) -> None:
    lock = hub.directory / "hub.lock"
    lock.unlink()
    wait_until(lambda: lock.exists() and lock.read_text(), "the lock")
    with subprocess.Popen([sys.executable, "-m", "gradscope.hub"]) as second:
        assert second.wait(DEADLINE_S) == 0
    assert hub_answers(hub, DEADLINE_S)


def test_a_removed_directory_is_created_again_with_all_its_files(
    hub: HubAddress, wait_until: Callable[..., None]
) -> None:
    shutil.rmtree(hub.directory)
    wait_until(lambda: hub_listens(hub), "the hub to listen again")
    assert hub_answers(hub, DEADLINE_S)
    assert hub.directory.stat().st_mode & 0o777 == 0o700
    assert (hub.directory / "hub.lock").exists()


def test_a_hub_ends_if_another_hub_has_taken_its_lock(
    hub: HubAddress,
    hub_pid: Callable[[], int],
    is_alive: Callable[[int], bool],
    wait_until: Callable[..., None],
) -> None:
    first = hub_pid()
    for path in (hub.directory / "hub.lock", hub.agents_path, hub.viewers_path):
        path.unlink()
    os.kill(first, signal.SIGSTOP)
    try:
        ensure_hub()
    finally:
        os.kill(first, signal.SIGCONT)
    wait_until(lambda: not is_alive(first), "the first hub's end")
    assert hub_pid() != first
    assert hub_answers(hub_address(), DEADLINE_S)


def test_the_command_line_is_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradscope.hub", "--what"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
