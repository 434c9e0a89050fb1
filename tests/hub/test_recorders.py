import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gradscope.hub.recorders import Recorders
from gradscope.protocol import Bye, Event, Hello, Message, Step, encode
from gradscope.recording import list_recordings, open_recording
from gradscope.transport import HubAddress, Link
from support.waiting import DEADLINE_S

EVENT = Event(run="r", rank=0, step=0, time_s=1.0, level="info", code="c", text="hello")


class SlowRecorder:
    """Keeps messages, and closes only after `may_close` is set."""

    def __init__(self, path: Path, hello: Hello) -> None:
        self.path = path
        self.hello = hello
        self.failure: str | None = None
        self.counters: dict[str, int] = {}
        self.messages: list[Message] = []
        self.may_close = threading.Event()

    def add(self, message: Message, parts: Sequence[bytes]) -> None:
        self.messages.append(message)

    def close(self, *, reason: str) -> None:
        self.may_close.wait(10.0)


def hello(rank: int = 0, record: str | None = "/tmp/r.gradscope") -> Hello:
    return Hello(role="agent", peer=f"agent-{rank}", run="r", rank=rank, record=record)


@pytest.mark.timing
def test_ending_a_run_does_not_wait_for_its_recorder(
    wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SlowRecorder] = []

    def factory(path: Path, of: Hello) -> SlowRecorder:
        made.append(SlowRecorder(path, of))
        return made[-1]

    monkeypatch.setattr("gradscope.recording.Recorder", factory)
    recorders = Recorders()
    assert recorders.add(hello(), EVENT, []) == "/tmp/r.gradscope"
    begin_s = time.monotonic()
    recorders.end("r", "over")
    assert time.monotonic() - begin_s < 1.0
    assert not recorders.are_closed
    assert recorders.add(hello(), EVENT, []) == ""  # the file has one writer at a time
    assert len(made) == 1
    made[0].may_close.set()
    wait_until(lambda: recorders.are_closed, "the recorder to be closed")
    assert recorders.add(hello(), EVENT, []) == "/tmp/r.gradscope"
    made[1].may_close.set()
    recorders.close("over")


def test_all_ranks_share_a_recorder_that_gets_the_hello_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[SlowRecorder] = []

    def factory(path: Path, of: Hello) -> SlowRecorder:
        made.append(SlowRecorder(path, of))
        return made[-1]

    monkeypatch.setattr("gradscope.recording.Recorder", factory)
    recorders = Recorders()
    for rank in (0, 1, 1, 0):
        recorders.add(hello(rank), EVENT, [])
    assert len(made) == 1
    assert made[0].hello == hello(0)
    assert made[0].messages == [EVENT, hello(1), EVENT, EVENT, EVENT]
    made[0].may_close.set()
    recorders.close("over")


def test_a_run_with_record_off_has_no_recorder() -> None:
    recorders = Recorders()
    assert recorders.add(hello(record=""), EVENT, encode(EVENT)) == ""
    assert recorders.are_closed


def test_a_failure_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SlowRecorder] = []

    def factory(path: Path, of: Hello) -> SlowRecorder:
        made.append(SlowRecorder(path, of))
        return made[-1]

    monkeypatch.setattr("gradscope.recording.Recorder", factory)
    recorders = Recorders()
    recorders.add(hello(), EVENT, [])
    made[0].failure = "the disk is full"
    assert recorders.new_failures() == [("r", "the disk is full")]
    assert recorders.new_failures() == []
    made[0].may_close.set()
    recorders.close("over")


def test_all_messages_of_an_agent_are_in_the_recording_after_it_has_left(
    places: Path, hub: HubAddress, bring_up: Callable[..., Link], wait_until: Callable[..., None]
) -> None:
    agent = bring_up(hub.agents, Hello(role="agent", peer="a", run="a run", pid=7, host="h"))
    for i in range(50):
        sent = Step(
            run="a run", rank=0, seq=i, step=i, time_s=float(i), manifest_revision=1, kinds=(), rows=0,
            columns=(), body=b"",
        )  # fmt: skip
        assert agent.send(sent)
    agent.close(Bye(reason="the script ended"))
    wait_until(lambda: any(r.ended_s for r in list_recordings()), "the recording's end")
    (info,) = list_recordings()
    assert (info.run, info.steps, info.reason) == ("a run", 50, "the script ended")
    with open_recording(info.path) as recording:
        assert [s.step for s in recording.steps()] == list(range(50))


def test_a_recording_that_cannot_be_written_is_reported_as_an_event(
    hub: HubAddress, bring_up: Callable[..., Link]
) -> None:
    from gradscope.protocol import Subscribe

    viewer = bring_up(hub.viewers, Hello(role="viewer", peer="v"))
    viewer.send(Subscribe(run="r"))
    agent = bring_up(hub.agents, hello(record="/proc/no/such.gradscope"))
    agent.send(EVENT)
    deadline_s = time.monotonic() + DEADLINE_S
    events: list[Event] = []
    while not any(event.code == "recording_stopped" for event in events):
        assert time.monotonic() < deadline_s, events
        events += [m for m in viewer.receive(0.1) if isinstance(m, Event)]
        agent.receive(0.0)
    assert events[0] == EVENT
    assert events[1].level == "error"
    assert "live view continues" in events[1].text
