"""Clients against a real hub and a real process that speaks as a training process does."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradscope.client import Client, connect
from gradscope.errors import (
    CommandRefusedError,
    CommandTimeoutError,
    IncompatibleError,
    LinkError,
    NothingToConnectError,
    UnsafePathError,
    UsageError,
)
from gradscope.protocol import (
    Ack,
    Backfill,
    Command,
    Interventions,
    Manifest,
    Message,
    Ramp,
    Runs,
    Schedule,
    Skipped,
    Step,
    unpack_layers,
)
from gradscope.transport import HubAddress, hub_address, hub_listens
from support import fork_server
from support.waiting import wait_for

TRAINER = Path(__file__).with_name("trainer.py")

Train = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def train(hub: HubAddress) -> Iterator[Train]:
    """Start a training process; return it once its run is listed as live."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(run: str = "a-run", *steps: str) -> "subprocess.Popen[bytes]":
        processes.append(fork_server.Popen([sys.executable, str(TRAINER), run, *steps]))
        with connect(want="observe") as client:
            wait_for(lambda: any(info.run == run for info in client.runs(60.0)), f"run {run}")
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def receive_until(client: Client, condition: Callable[[list[Message]], object]) -> list[Message]:
    deadline_s = time.monotonic() + 60.0
    messages: list[Message] = []
    while not condition(messages):
        assert time.monotonic() < deadline_s, (client.link, messages)
        messages += client.receive(0.1)
    return messages


def test_connect_without_a_hub_raises(places: Path) -> None:
    with pytest.raises(NothingToConnectError, match=r"no hub is running.*gradscope run train\.py"):
        connect()
    assert not (places / "run").exists()


def test_connect_refuses_a_hub_directory_that_other_users_can_open(hub: HubAddress) -> None:
    hub.directory.chmod(0o777)
    with pytest.raises(UnsafePathError):
        connect()
    hub.directory.chmod(0o700)


def test_the_only_live_run_is_chosen(train: Train) -> None:
    train()
    with connect() as client:
        assert client.run == "a-run"
        (info,) = client.runs()
        assert (info.run, info.rank, info.is_live) == ("a-run", 0, True)


def test_with_several_live_runs_one_must_be_named(train: Train) -> None:
    train("one")
    train("two")
    with connect() as client:
        assert client.run is None
        with pytest.raises(NothingToConnectError, match=r"2 runs are live, name one of them:.*one"):
            client.latest()
        with pytest.raises(NothingToConnectError):
            client.clip("fc1", max_norm=1.0)
    with connect("two") as client:
        assert client.run == "two"
        assert client.latest(60.0)["fc1"]["grad"].count >= 0


def test_without_a_run_the_client_says_what_to_do(hub: HubAddress) -> None:
    with connect() as client, pytest.raises(NothingToConnectError, match="no run is live; start"):
        client.manifest()


def test_the_error_for_an_unknown_run_lists_the_live_ones(train: Train) -> None:
    train("one")
    with pytest.raises(NothingToConnectError, match=r"no run 'two'; .*one"):
        connect("two")


def test_a_script_reads_what_the_training_process_sent(train: Train) -> None:
    train()
    with connect() as client:
        assert [layer.name for layer in unpack_layers(client.manifest())] == ["fc1", "fc2"]
        first = client.latest(60.0)
        assert list(first) == ["fc1", "fc2"]
        assert first["fc2"]["grad"].max == first.step
        wait_for(lambda: client.latest().step > first.step, "the next step")


def test_the_steps_of_an_ended_run_arrive_once_and_in_order(train: Train) -> None:
    train("a-run", "80").wait()
    with connect("a-run") as client:
        tables = list(client.steps())
    assert [table.step for table in tables] == list(range(80))
    assert all(table["fc1"]["grad"].sum == table.step for table in tables)


def test_live_steps_follow_the_past_ones_until_the_run_ends(train: Train) -> None:
    process = train("a-run", "150")
    with connect("a-run") as client:
        steps = [table.step for table in client.steps()]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] == 149
    process.wait()


def test_interventions_are_known_before_a_long_past_was_read(train: Train) -> None:
    train()
    with connect("a-run") as client:
        wait_for(lambda: client.latest().step >= 100, "more past steps than a reader gets unread")
        set_ = client.clip("fc1", max_norm=1.0, is_kept=True)
    with connect("a-run") as client:
        for _ in client.steps():
            assert [entry.id for entry in client.interventions(60.0)] == [set_.id]
            assert client.paused(60.0) is None
            break


def test_steps_end_after_their_timeout(train: Train) -> None:
    process = train()
    with connect() as client:
        tables = client.steps(timeout_s=0.5)
        next(tables)
        process.send_signal(signal.SIGSTOP)
        begin_s = time.monotonic()
        for _ in tables:
            pass
        assert time.monotonic() - begin_s < 60.0


def test_the_stream_has_manifest_then_past_then_live_steps(train: Train) -> None:
    train()
    with connect() as client:
        client.watch("a-run", max_rate_hz=100.0)
        messages = receive_until(client, lambda m: sum(isinstance(x, Step) for x in m) > 30)
    kinds = [type(m) for m in messages if not isinstance(m, Runs | Skipped)]
    assert kinds[:4] == [Manifest, Interventions, Backfill, Step]
    seqs = [m.seq for m in messages if isinstance(m, Step)]
    assert seqs == sorted(set(seqs))


def test_the_list_of_runs_arrives_before_a_run_is_watched(hub: HubAddress, train: Train) -> None:
    with connect() as client:
        train()
        messages = receive_until(client, lambda m: any(isinstance(x, Runs) and x.runs for x in m))
    listed = [run.run for message in messages if isinstance(message, Runs) for run in message.runs]
    assert set(listed) == {"a-run"}


def test_the_requested_rate_is_kept_and_skipped_steps_are_reported(train: Train) -> None:
    train()
    with connect() as client:
        client.watch("a-run", max_rate_hz=5.0, backfill=False)
        messages = receive_until(client, lambda m: sum(isinstance(x, Step) for x in m) >= 6)
    steps = [m for m in messages if isinstance(m, Step)]
    assert steps[5].time_s - steps[1].time_s > 0.7
    skipped = sum(m.count for m in messages if isinstance(m, Skipped))
    assert skipped == steps[-1].seq - steps[0].seq - (len(steps) - 1)


def test_a_reader_that_stops_reading_gets_the_newest_step_afterwards(train: Train) -> None:
    train()
    with connect() as client:
        client.watch("a-run", max_rate_hz=1_000.0, backfill=False)
        receive_until(client, lambda m: any(isinstance(x, Step) for x in m))
        observer = connect("a-run", want="observe")
        wait_for(lambda: observer.latest().step >= 150, "step 150")
        held = [m for m in client.receive(1.0) if isinstance(m, Step)]
        assert len(held) <= 32
        messages = receive_until(client, lambda m: any(isinstance(x, Skipped) for x in m))
        after = next(m for m in receive_until(client, lambda m: any(isinstance(x, Step) for x in m))
                     if isinstance(m, Step))  # fmt: skip
        assert after.seq > held[-1].seq + 1
        assert any(isinstance(m, Skipped) for m in messages)
        observer.close()


def test_a_command_returns_when_it_is_in_force(train: Train) -> None:
    train()
    with connect(name="my script") as client:
        ack = client.clip("fc1", max_norm=0.5, is_kept=True)
        assert isinstance(ack, Ack)
        assert ack.layers == ("fc1",)
        assert ack.step is not None
        (entry,) = client.interventions()
        assert (entry.id, entry.action, entry.arguments) == (ack.id, "clip", {"max_norm": 0.5})
        assert entry.set_by.startswith("my script (")
        client.remove(ack.id)
        assert client.interventions() == ()


def test_site_schedule_and_choices_arrive(train: Train) -> None:
    train()
    with connect() as client:
        client.clip(
            "fc1", max_norm=1.0, per="layer", site="params", start_step=2, end_step=10**6,
            every_steps=3, ramp="max_norm=1:2:50:dann", when="norm > 10", is_kept=True,
        )  # fmt: skip
        (entry,) = client.interventions()
        assert (entry.site, entry.choices) == ("params", {"per": "layer"})
        ramp = Ramp("max_norm", 1.0, 2.0, 50, "dann")
        assert entry.schedule == Schedule(2, 10**6, 3, ramp, "norm > 10")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"start_step": -1}, "start_step must be an integer of at least 0"),
        ({"every_steps": 0}, "every_steps must be an integer of at least 1"),
        ({"ramp": "soon"}, "a ramp is ARGUMENT=FROM:TO:STEPS"),
        ({"for_steps": 5}, "stop has no option 'for_steps'; its options are .*end_steps"),
    ],
)
def test_a_time_that_cannot_be_is_refused_before_it_is_sent(
    train: Train, how: dict[str, object], words: str
) -> None:
    train()
    with connect() as client, pytest.raises(UsageError, match=words):
        client.stop("fc1", **how)


@pytest.mark.parametrize(
    ("ask", "action", "arguments"),
    [
        (lambda c: c.reverse("fc1"), "reverse", {"alpha": 1.0}),
        (lambda c: c.scale("fc1", factor=0.5), "scale", {"factor": 0.5}),
        (lambda c: c.clip("fc1", max_norm=2), "clip", {"max_norm": 2.0}),
        (lambda c: c.clamp("fc1", limit=0.1), "clamp", {"limit": 0.1}),
        (lambda c: c.stop(["fc1"]), "stop", {}),
        (lambda c: c.intervene("fc1", "mine", arguments={"gain": 2}), "mine", {"gain": 2.0}),
        (lambda c: c.noise("fc1", std=0.1), "noise", {"std": 0.1, "seed": 0.0, "relative": 0.0}),
    ],
    ids=["reverse", "scale", "clip", "clamp", "stop", "own", "noise"],
)
def test_each_intervention_arrives_under_its_name_with_its_arguments(
    train: Train, ask: Callable[[Client], Ack], action: str, arguments: dict[str, float]
) -> None:
    train()
    with connect() as client:
        assert ask(client).is_done
        (entry,) = client.interventions()
        assert (entry.action, entry.arguments, entry.site) == (action, arguments, "output")
        client.remove_all()
        assert client.interventions() == ()


def test_a_refused_command_raises_with_the_reason(train: Train) -> None:
    train()
    with connect() as client:
        with pytest.raises(CommandRefusedError, match=r"no layer matches.*nearest: fc1"):
            client.clip("fc9", max_norm=1.0)
        future = client.send(
            Command(action="install", intervention="clip", layers=("fc9",), arguments={"max_norm": 1.0})
        )
        assert isinstance(future.exception(60.0), CommandRefusedError)


def test_an_observer_cannot_change_anything(train: Train) -> None:
    train()
    with connect(want="observe") as client:
        with pytest.raises(CommandRefusedError, match="observe only"):
            client.stop("fc1")
        assert client.interventions() == ()


def test_an_intervention_without_layers_is_refused_before_it_is_sent(train: Train) -> None:
    train()
    with connect() as client, pytest.raises(UsageError, match="at least one layer"):
        client.stop([])


def test_a_command_without_an_answer_raises_with_the_reason(train: Train) -> None:
    process = train()
    with connect() as client:
        client.latest(60.0)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(CommandTimeoutError, match=r"not answered in 0.5 s: commands wait"):
            client.stop("fc1", timeout_s=0.5)


def test_steps_continue_in_order_after_the_hub_was_killed(
    train: Train, hub_pid: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    train()
    with connect() as client:
        seen: list[int] = []
        first_epoch = client.link.epoch
        for table in client.steps(timeout_s=60.0):
            seen.append(table.step)
            if len(seen) == 20:
                os.kill(hub_pid(), signal.SIGKILL)
            if client.link.epoch != first_epoch and len(seen) > 60:
                break
        assert seen == sorted(set(seen))
        assert client.counters["reconnects"] == 1
        assert client.link.epoch != first_epoch


def test_a_command_is_executed_once_although_the_hub_is_replaced(
    train: Train, hub_pid: Callable[[], int]
) -> None:
    train()
    with connect() as client:
        client.latest(60.0)
        os.kill(hub_pid(), signal.SIGKILL)
        future = client.send(
            Command(action="install", intervention="scale", layers=("fc1",), arguments={"factor": 2.0})
        )
        assert future.result(60.0).is_done
        assert len(client.interventions()) == 1


def test_closing_ends_the_thread_and_all_waiting_calls(train: Train) -> None:
    process = train()
    client = connect()
    client.latest(60.0)
    process.send_signal(signal.SIGSTOP)
    future = client.send(Command(action="install", intervention="stop", layers=("fc1",)))
    client.close()
    assert isinstance(future.exception(60.0), LinkError)
    assert not [t for t in threading.enumerate() if t.name == "gradscope-client"]
    with pytest.raises(LinkError, match="closed"):
        client.stop("fc1")
    client.receive(5.0)
    assert client.receive(5.0) == []


def test_a_hub_of_another_version_is_incompatible(
    hub: HubAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradscope.client import connection

    real = connection.Hello
    monkeypatch.setattr(connection, "Hello", lambda **fields: real(**fields, protocol=99))
    with pytest.raises(IncompatibleError, match="version 1 of the protocol, got 99"):
        connect()


def test_a_stopped_hub_is_a_link_error(hub: HubAddress, hub_pid: Callable[[], int]) -> None:
    pid = hub_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(LinkError, match=r"did not answer in 0.5 s"):
            connect(timeout_s=0.5)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_client_loads_neither_torch_nor_a_user_interface() -> None:
    script = (
        "import sys, gradscope.client\n"
        "print([m for m in ('torch', 'textual', 'typer', 'sqlite3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert hub_address() is not None
    assert not hub_listens(hub_address("/nowhere"))
