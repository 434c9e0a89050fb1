"""Two real ranks obey a viewer: each command is in force at the same step on both, or on none."""

import json
import os
import random
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import gradscope
from gradscope.errors import CommandRefusedError, NothingToConnectError
from gradscope.protocol import Command
from support import ranks
from support.waiting import wait_for

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]

SCRIPT = Path(__file__).with_name("distributed_commands.py")
DEADLINE_S = 200


class Ranks:
    """Two ranks of one training, from their start to their end."""

    def __init__(self, folder, *options):
        self.result, self.until = folder / "result", folder / "until"
        self.ranks = ranks.Ranks(SCRIPT, self.result, self.until, *options)

    def pid(self, rank):
        return self.ranks.processes[rank].pid

    def finish(self):
        """End both; return what each wrote."""
        self.until.touch()
        assert "Traceback" not in self.ranks.finish(DEADLINE_S)
        return [json.loads(Path(f"{self.result}.{rank}").read_text()) for rank in range(2)]


@contextmanager
def two_ranks(folder, *options):
    both = Ranks(folder, *options)
    try:
        yield both
    finally:
        both.ranks.kill()


def connect():
    def attempt():
        try:
            client = gradscope.connect("ranks")
        except NothingToConnectError:
            return None
        if sum(info.run == "ranks" and info.is_live for info in client.runs()) == 2:
            return client
        client.close()
        return None

    return wait_for(attempt, "both ranks of the run")


def in_force(kept, id):
    """The steps in which an intervention was in force."""
    return [step for step, active in enumerate(kept["active"]) if id in active]


RANDOM = [
    lambda client, random: client.reverse("0", alpha=random.uniform(0.5, 2), is_kept=True),
    lambda client, random: client.scale("2", factor=random.uniform(2, 3), is_kept=True),
    lambda client, random: client.clip("*", max_norm=1e-4, is_kept=True),
    lambda client, random: client.clamp("2", limit=1e-6, is_kept=True),
    lambda client, random: client.stop("0", is_kept=True),
    lambda client, random: client.noise("2", std=0.1, seed=random.randrange(100), is_kept=True),
    lambda client, random: client.scale("0", factor=2.0, end_steps=random.randrange(1, 30)),
]


def send_random_commands(client, count, chosen):
    """Send commands one after the other; return the acknowledged steps of installs and removals."""
    installed, removed, mine = {}, {}, []
    for _ in range(count):
        if mine and chosen.random() < 0.5:
            id = mine.pop(chosen.randrange(len(mine)))
            removed[id] = client.remove(id).step
            continue
        which = chosen.randrange(len(RANDOM))
        ack = RANDOM[which](client, chosen)
        installed[ack.id] = ack.step
        if which < len(RANDOM) - 1:  # the last one ends by itself
            mine.append(ack.id)
    return installed, removed


def check_agreement(kept, installed, removed):
    """Compare what both ranks wrote down with each other, and with the acknowledged steps."""
    first, second = kept
    for what in ("active", "reduced", "is_changed", "observed"):
        assert first[what] == second[what], what
    assert first["is_changed"] == [bool(ids) for ids in first["active"]]
    count = len(first["active"])
    for id, step in installed.items():
        assert step == count or in_force(first, id)[0] == step, id
    for id, step in removed.items():
        assert in_force(first, id)[-1] == step - 1, id
    assert first["faults"] == second["faults"] == {}


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_random_commands_are_in_force_at_the_same_step_on_both_ranks(places, tmp_path, count):
    with two_ranks(tmp_path) as ranks:
        with connect() as client:
            installed, removed = send_random_commands(client, count, random.Random(3))
        kept = ranks.finish()
    assert len(installed) + len(removed) == count
    check_agreement(kept, installed, removed)
    assert len({every for _, every in kept[0]["observed"]}) > 1  # the budget has chosen, for both


def test_both_ranks_take_focus_steps_of_a_viewers_layer_in_the_same_steps(places, tmp_path):
    with two_ranks(tmp_path) as ranks:
        with connect() as client:
            assert client.focus("0").layers == ("0",)
            focus_steps = [
                table for table, _ in zip(client.focus_steps(DEADLINE_S), range(5), strict=False)
            ]
            assert client.focus().layers == ()
        first, second = ranks.finish()
    assert first["faults"] == second["faults"] == {}
    assert first["focus_steps"] == second["focus_steps"]
    assert {tuple(layers) for _, layers in first["focus_steps"]} == {("0",)}
    assert {table.step for table in focus_steps} <= {step for step, _ in first["focus_steps"]}
    whole = {step for step, _ in first["observed"]}
    assert not whole & {step for step, _ in first["focus_steps"]}


def test_a_command_that_one_rank_refuses_is_executed_on_none(places, tmp_path):
    with two_ranks(tmp_path, "--different") as ranks:
        with connect() as client:
            with pytest.raises(CommandRefusedError, match="rank 1: no layer matches '2'"):
                client.reverse("2", is_kept=True)
            both = client.reverse("0", is_kept=True)
            over = client.remove(both.id)
        first, second = ranks.finish()
    for kept in (first, second):
        assert {id for active in kept["active"] for id in active} == {both.id}
        assert in_force(kept, both.id) == list(range(both.step, over.step))


def kill_the_hub(client, ranks, hub_pid):
    """A command is on its way when the hub is killed: it is obeyed once, by way of another hub."""
    waiting = client.send(
        Command(
            action="install",
            intervention="scale",
            layers=("0",),
            arguments={"factor": 2.0},
            end_steps=5,
        )
    )
    os.kill(hub_pid(), signal.SIGKILL)
    return [waiting.result(DEADLINE_S)]


def stop_a_rank(client, ranks, hub_pid):
    """A rank is stopped and does not answer: the command is refused in time, and names it."""
    pid = ranks.pid(1)
    os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    try:
        with pytest.raises(CommandRefusedError, match="rank 1 did not answer in 2 s"):
            client.reverse("0", is_kept=True)
        assert time.monotonic() - began_s < 20
    finally:
        os.kill(pid, signal.SIGCONT)
    return [client.scale("0", factor=2.0, end_steps=5)]


def stop_ranks_at_any_moment(client, ranks, hub_pid):
    """Ranks are stopped for a moment, at random times after a command: both obey all the same."""
    chosen, acks = random.Random(5), []
    for _ in range(10):
        waiting = client.send(
            Command(
                action="install",
                intervention="scale",
                layers=("0",),
                arguments={"factor": 2.0},
                end_steps=5,
            )
        )
        time.sleep(chosen.uniform(0, 0.06))
        pid = ranks.pid(chosen.randrange(2))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
        acks.append(waiting.result(DEADLINE_S))
    return acks


def end_by_the_clock(client, ranks, hub_pid):
    """Each rank has its own clock; the end comes at the same step."""
    acks = [client.scale("0", factor=2.0, end_s=0.2 * i) for i in range(1, 4)]
    wait_for(lambda: not client.interventions(), "their ends")
    return acks


def pause(client, ranks, hub_pid):
    """Both stand before the same step; what is set meanwhile is in force there at once."""
    stands = client.pause()
    meanwhile = [client.scale("0", factor=2.0, end_steps=5) for _ in range(3)]
    assert {ack.step for ack in meanwhile} == {stands.step}
    assert client.resume().step == stands.step
    return meanwhile


HARDSHIPS = (kill_the_hub, stop_a_rank, stop_ranks_at_any_moment, end_by_the_clock, pause)


def test_both_ranks_obey_at_the_same_steps_despite_kills_and_stops(places, hub_pid, tmp_path):
    with two_ranks(tmp_path) as ranks:
        with connect() as client:
            acks = [ack for hardship in HARDSHIPS for ack in hardship(client, ranks, hub_pid)]
            installed, removed = send_random_commands(client, 10, random.Random(4))
        kept = ranks.finish()
    check_agreement(kept, {**{ack.id: ack.step for ack in acks}, **installed}, removed)
    assert max(each["slowest_s"] for each in kept) < 20  # the stopped rank, and nothing after it
