"""Three hubs in network namespaces: two nodes forward their ranks to a head, which is cut off and killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from gradscope.access import authorize, new_key_pair, own_server_key, require_curve
from gradscope.client import connect
from gradscope.columns import Table, merge_ranks
from gradscope.errors import GradscopeError
from gradscope.protocol import Ack, Command, Credit, Heartbeat, Hello, Scalars, Step, Subscribe, Welcome
from gradscope.transport import Link, hub_address
from gradscope.transport.lock import HUB_LOCK, holder_pid
from support.rank_steps import block_of_rank, manifest_of_rank, step_of_rank
from support.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

NAMES = ("first", "last")
PORT = 5711
STEP_S = 0.1


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture(scope="module")
def namespaces():
    """Namespaces of the head and of two nodes, each node with a link of its own to the head: name → address."""
    own = {name: f"gs{os.getpid()}{name}" for name in ("head", "a", "b")}
    try:
        require_curve()
        for name in own.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number, node in enumerate(("a", "b"), 1):
            peer = "peer", "name", f"to{node}", "netns", own["head"]
            ip("link", "add", f"gs{node}", "netns", own[node], "type", "veth", *peer)
            ip("-n", own[node], "addr", "add", f"10.77.{number}.2/24", "dev", f"gs{node}")
            ip("-n", own["head"], "addr", "add", f"10.77.{number}.1/24", "dev", f"to{node}")
            ip("-n", own[node], "link", "set", f"gs{node}", "up")
            ip("-n", own["head"], "link", "set", f"to{node}", "up")
    except (GradscopeError, OSError, subprocess.SubprocessError) as error:
        _remove(own)
        pytest.skip(f"needs CURVE, and network namespaces, which only root can make: {error}")
    yield own
    _remove(own)


def _remove(own):
    for name in own.values():
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=20)


class Place:
    """A machine: a namespace, and the directories and hub in it."""

    def __init__(self, namespace, root):
        self.namespace, self.root = namespace, root
        self.runtime = root / "run"
        self.processes = []
        self.env = os.environ | {
            "GRADSCOPE_RUNTIME_DIR": str(self.runtime),
            "GRADSCOPE_DATA_DIR": str(root / "data"),
            "GRADSCOPE_HUB_IDLE_S": "60",
        }

    def start(self, *command, **env):
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-P", "-m", *command],
            env=self.env | env, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        self.processes.append(process)

    @property
    def address(self):
        return hub_address(str(self.runtime))

    def kill(self):
        """End all processes here by SIGKILL: the ones started, and the hub."""
        pid = holder_pid(self.runtime / HUB_LOCK)
        for process in self.processes:
            process.kill()
            process.wait(20)
        self.processes = []
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Ranks(threading.Thread):
    """The agents of two ranks of one node. They send ten steps a second, and obey commands in the next one."""

    def __init__(self, place, ranks):
        super().__init__()
        self.place, self.ranks = place, ranks
        self.ends = threading.Event()
        self.step = -1
        self.commands = []
        self.viewers = ()
        self.unsent = 0

    def run(self):
        links = {
            rank: Link(
                self.place.address.agents,
                Hello(
                    role="agent", peer=f"a{rank}", run="r", rank=rank, world_size=4, host="h", record=""
                ),
            )
            for rank in self.ranks
        }
        began_s, is_up = time.time(), set()
        while not self.ends.is_set():
            for rank, link in links.items():
                for message in link.receive(0.002):
                    if isinstance(message, Welcome):
                        link.send(manifest_of_rank(rank))
                        is_up.add(rank)
                    elif isinstance(message, Heartbeat):
                        self.viewers = message.peers
                    elif isinstance(message, Command):
                        self.commands.append(message)
                        link.send(Ack(command=message.id, run="r", is_done=True, step=self.step + 1))
            due = int(time.time() / STEP_S)  # the same step on both nodes
            if due > self.step and len(is_up) == len(links) and time.time() > began_s + 1:
                self.step = due
                for rank, link in links.items():
                    self.unsent += not link.send(step_of_rank(rank, due))
                    link.send(Scalars(run="r", rank=rank, steps=(due,), times_s=(1.0,), values={"step_time_s": (0.1,)}))  # fmt: skip  # noqa: E501
        for link in links.values():
            link.close()


@pytest.fixture
def machines(namespaces, monkeypatch):
    """The head, which serves, and the nodes with their ranks."""
    root = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    head, a, b = (Place(namespaces[name], root / name) for name in ("head", "a", "b"))
    monkeypatch.setenv("GRADSCOPE_DATA_DIR", head.env["GRADSCOPE_DATA_DIR"])
    server = own_server_key(may_create=True)
    trainings = []
    for number, node in enumerate((a, b), 1):
        monkeypatch.setenv("GRADSCOPE_DATA_DIR", node.env["GRADSCOPE_DATA_DIR"])
        public = new_key_pair("viewer").public
        authorize(f"tcp://10.77.{number}.1:{PORT}", server.public, "server")
        monkeypatch.setenv("GRADSCOPE_DATA_DIR", head.env["GRADSCOPE_DATA_DIR"])
        authorize(f"node{number}", public, "forward")
    head.start("gradscope", "serve", "--bind", f"tcp://0.0.0.0:{PORT}")
    for number, node in enumerate((a, b), 1):
        node.runtime.mkdir(mode=0o700)
        node.start("gradscope.hub", str(node.runtime), GRADSCOPE_HEAD=f"tcp://10.77.{number}.1:{PORT}")
        trainings.append(Ranks(node, (0, 1) if number == 1 else (2, 3)))
        trainings[-1].start()
    yield head, a, b, trainings
    for training in trainings:
        training.ends.set()
        training.join()
    for place in (a, b, head):
        place.kill()
    wait_for(lambda: not _forwarders(root), "the end of the forwarding processes")
    shutil.rmtree(root, ignore_errors=True)


def _forwarders(root):
    found = subprocess.run(["pgrep", "-f", str(root)], check=False, capture_output=True, text=True)
    return found.stdout.split()


def steps_at(place, count, since=0):
    """The next merged steps that a viewer of a hub receives."""
    found, deadline_s = [], time.monotonic() + DEADLINE_S
    hello = Hello(role="viewer", peer=f"v{time.monotonic()}")
    with Link(place.address.viewers, hello) as link:
        while len(found) < count:
            assert time.monotonic() < deadline_s, (link.state, [step.step for step in found])
            for message in link.receive(0.1):
                if isinstance(message, Welcome):
                    link.send(Subscribe(run="r", max_rate_hz=1000.0, backfill=False, is_merged=True))
                    link.send(Credit(count=1000))
                elif isinstance(message, Step) and message.step > since:
                    found.append(message)
    return found


def wait_for_all_ranks(place, since=0):
    """Wait until the head shows a step of all four ranks, and return it."""
    while len((step := steps_at(place, 1, since)[0]).ranks) < 4:
        since = step.step
    return step


def lost(place):
    """The messages that nodes could not send, and the steps that the hub misses, by gaps in the sequence."""
    with connect("r", endpoint=str(place.runtime)) as client:
        return sum(
            info.counters["steps_lost"] + info.counters.get("dropped", 0)
            for info in client.runs(DEADLINE_S)
        )


def test_two_nodes_appear_at_the_head_as_one_run_and_survive_its_death_and_a_cut_network(
    machines, namespaces
):
    head, a, _, trainings = machines
    wait_for(head.address.viewers_path.exists, "the hub of the head")
    step = wait_for_all_ranks(head)
    assert step.ranks == (0, 1, 2, 3)

    # The numbers are those of all ranks.
    with connect("r", endpoint=str(head.runtime)) as client:
        wait_for(lambda: client.latest(5.0).ranks == (0, 1, 2, 3), "a step of all ranks")
        table = client.latest()
        of_ranks = [(NAMES, block_of_rank(rank, table.step)) for rank in range(4)]
        expected = Table(table.step, *merge_ranks(of_ranks))
        for layer in NAMES:
            got, of_all = table[layer]["out"].to_dict(), expected[layer]["out"].to_dict()
            assert got.pop("histogram") == of_all.pop("histogram")
            assert got == pytest.approx(of_all, nan_ok=True, rel=1e-12)

        def listed():
            states = client.rank_states(DEADLINE_S).get("r")
            return states is not None and [state.rank for state in states.ranks] == [0, 1, 2, 3]

        wait_for(listed, "the states of all ranks")

        # A command reaches the lowest rank, which agrees with the others, under the name of the viewer.
        ack = client.clip("first", max_norm=1.0, end_steps=5, timeout_s=20.0)
        (command,) = trainings[0].commands
        assert (command.intervention, ack.is_done, ack.step) == ("clip", True, ack.step)
        assert trainings[1].commands == []
        wait_for(lambda: command.peer in trainings[0].viewers, "the viewer among those of the node")
    # An intervention ends 60 s after its viewer: the training learns that this one has gone.
    wait_for(lambda: command.peer not in trainings[0].viewers, "the end of the viewer")

    # The head is killed: the nodes and their trainings do not notice.
    before = trainings[0].step
    head.kill()
    local = steps_at(a, 20)
    assert [step.step for step in local] == sorted({step.step for step in local})
    head.start("gradscope", "serve", "--bind", f"tcp://0.0.0.0:{PORT}")
    wait_for(head.address.viewers_path.exists, "the new hub of the head")
    after = wait_for_all_ranks(head, before)
    assert after.step > before

    # The network of a node is cut: the head continues with the other node, and then has all ranks again.
    ip("-n", namespaces["a"], "link", "set", "gsa", "down")
    cut = trainings[0].step
    assert len(steps_at(a, 5)) == 5
    wait_for(lambda: steps_at(head, 1, cut)[0].ranks == (2, 3), "steps without the node")
    ip("-n", namespaces["a"], "link", "set", "gsa", "up")
    again = wait_for_all_ranks(head, cut)
    found = steps_at(head, 20, again.step)
    numbers = [step.step for step in found]
    assert numbers == sorted(set(numbers))  # none is doubled
    assert {step.ranks for step in found} == {(0, 1, 2, 3)}
    wait_for(lambda: lost(head) > 0, "the count of what was lost while the network was cut")
    assert [training.unsent for training in trainings] == [0, 0]
