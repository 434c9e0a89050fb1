"""Viewers, hubs and trainings that are killed or stopped at random moments.

The training computes what it would compute alone, each step reaches a viewer once or is counted, and a command is
acknowledged and in force or neither.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import gradscope
from gradscope.errors import CommandRefusedError, GradscopeError, NothingToConnectError
from gradscope.protocol import Command, Skipped, Step
from gradscope.recording import list_recordings, open_recording
from gradscope.transport import hub_address, hub_answers
from support import fork_server, hubs
from support.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]

HERE = Path(__file__).parent
TRAINING = HERE.parent / "end_to_end" / "training.py"
WATCHER = HERE / "watcher.py"
RUN = "training"
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "20"))
SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1 2 3 4 5").split()]
NEUTRAL = Command(
    action="install", intervention="scale", layers=("2",), arguments={"factor": 1.0}, is_kept=True
)


@contextmanager
def started(*arguments):
    """A process of one of the scripts, killed at the end of the block."""
    process = fork_server.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def connected(**options):
    def attempt():
        try:
            return gradscope.connect(RUN, **options)
        except (NothingToConnectError, GradscopeError):
            return None

    return wait_for(attempt, "the run")


class Account:
    """What a client has received: each step once. `gaps`: missing steps that were not reported as skipped."""

    def __init__(self, client) -> None:
        self.client = client
        self.received = self.skipped = 0
        self.gaps: list[int] = []
        self._newest: int | None = None
        self._left_out = 0

    def read(self, timeout_s: float = 0.05) -> None:
        for message in self.client.receive(timeout_s):
            if isinstance(message, Skipped):
                self._left_out += message.count
            elif isinstance(message, Step):
                self._count(message)

    def _count(self, step: Step) -> None:
        if self._newest is not None:
            assert step.seq > self._newest, f"step {step.seq} was received after {self._newest}"
            gap = step.seq - self._newest - 1
            self.skipped += min(gap, self._left_out)
            if gap > self._left_out:
                self.gaps.append(gap - self._left_out)
        self._newest, self._left_out = step.seq, 0
        self.received += 1

    def read_until_it_advances(self) -> None:
        """Read until newer steps than now have been received."""
        before = self.received

        def has_advanced() -> bool:
            self.read()
            return self.received > before + 2

        wait_for(has_advanced, f"newer steps; the link is {self.client.link}")

    def lost_at_the_hub(self) -> int:
        runs = self.client.runs(timeout_s=DEADLINE_S)
        return next(each.counters["steps_lost"] for each in runs if each.run == RUN)

    def unexplained(self, kills: int, lost: int) -> int:
        """Return the number of missing steps that were not counted anywhere. A killed hub loses its own."""
        return sum(sorted(self.gaps)[: max(0, len(self.gaps) - kills)]) - lost


def hub_process() -> int:
    return wait_for(
        lambda: (pid := hubs.pid_of_hub(hub_address())) and hubs.is_alive(pid) and pid, "a hub"
    )


def strike(pid: int, number: signal.Signals, chance: random.Random, account: Account) -> str:
    """Kill or stop a process. A stopped one continues after up to a second, or in one of ten cases after seven."""
    os.kill(pid, number)
    if number == signal.SIGKILL:
        return "killed"
    pause_s = 7.0 if chance.random() < 0.1 else chance.random()
    until_s = time.monotonic() + pause_s
    while time.monotonic() < until_s:
        account.read(0.02)
    os.kill(pid, signal.SIGCONT)
    return f"stopped for {pause_s:.1f} s"


def acknowledged_step(client) -> int:
    """Return the newest observed step that the hub says is on disk; -1 if it has said none."""
    runs = client.runs(timeout_s=DEADLINE_S)
    return next((each.counters.get("recorded_step", -1) for each in runs if each.run == RUN), -1)


def run_rounds(tmp_path, rounds: int, seed: int) -> None:
    chance, over = random.Random(seed), tmp_path / "over"
    result, told = tmp_path / "run.npz", []
    with started(TRAINING, result, 1_000_000, "--until", over, "--sleep-s", "0.002") as trainer:
        with connected() as client:
            client.watch(RUN, max_rate_hz=1_000.0)
            account = Account(client)
            account.read_until_it_advances()
            kept: set[str] = set()
            lost: dict[int, int] = {}
            acknowledged: set[int] = set()
            for _ in range(rounds):
                acknowledged.add(acknowledged_step(client))
                whom = chance.choice(["hub", "hub", "viewer", "trainer"])
                number = chance.choice([signal.SIGKILL, signal.SIGSTOP])
                account.read(chance.random() * 0.1)
                asked = client.send(NEUTRAL)
                if whom == "viewer":
                    with started(WATCHER, RUN) as viewer:
                        account.read(chance.random() * 0.5)
                        told.append((whom, strike(viewer.pid, number, chance, account)))
                elif whom == "hub":
                    pid = hub_process()
                    told.append((whom, strike(pid, number, chance, account)))
                    if number == signal.SIGKILL:
                        wait_for(lambda pid=pid: not hubs.is_alive(pid), "the end of the hub")
                else:
                    told.append((whom, strike(trainer.pid, signal.SIGSTOP, chance, account)))
                try:
                    account.read_until_it_advances()
                    kept.add(asked.result(timeout=DEADLINE_S).id)
                except (
                    CommandRefusedError
                ) as error:  # the training was stopped for longer than a link waits
                    has_reason = "cannot be reached" in str(error) or "does not answer" in str(error)
                    if not has_reason:
                        raise
                except (AssertionError, TimeoutError) as error:
                    raise AssertionError(f"after {told}") from error
                in_force = {entry.id for entry in client.interventions(DEADLINE_S)}
                assert in_force == kept, told
                if len(kept) == 5:
                    client.remove_all()
                    kept.clear()
                lost[hub_process()] = account.lost_at_the_hub()
                unexplained = account.unexplained(told.count(("hub", "killed")), sum(lost.values()))
                assert unexplained <= 0, (told, account.gaps, lost)
            client.remove_all()
            wait_for(lambda: acknowledged_step(client) >= 0, "a step on disk")
            acknowledged.add(acknowledged_step(client))
        over.touch()
        _, errors = trainer.communicate(timeout=200)
        assert trainer.returncode == 0, (told, errors)
        assert "Traceback" not in errors, (told, errors)
    bare = tmp_path / "bare.npz"
    with np.load(result) as arrays:
        disturbed = dict(arrays)
    fork_server.run(
        [
            sys.executable,
            str(TRAINING),
            str(bare),
            str(len(disturbed["loss"])),
            "--bare",
            "--sleep-s",
            "0",
        ],
        check=True,
    )
    with np.load(bare) as arrays:
        for name, expected in arrays.items():
            assert np.array_equal(disturbed[name], expected), (name, told)
    check_recording(len(disturbed["loss"]), acknowledged - {-1})


def check_recording(steps: int, acknowledged: set[int]) -> None:
    """Each step is recorded at most once, and each that was acknowledged is there."""
    found: set[int] = set()
    for info in list_recordings():
        with open_recording(info.path) as recording:
            assert recording.check() == []
            numbers = recording.step_numbers()
            assert numbers == sorted(set(numbers))
            assert not numbers or numbers[-1] < steps
            assert recording.info.removed == 0
            found.update(numbers)
    assert acknowledged
    assert acknowledged <= found


def test_a_training_whose_hub_and_viewers_are_killed_and_stopped_computes_the_same(tmp_path):
    run_rounds(tmp_path, 3, seed=3)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_computes_the_same_in_many_rounds(tmp_path, seed):
    run_rounds(tmp_path, ROUNDS, seed)


def run_killed_trainings(tmp_path, rounds: int, seed: int) -> None:
    """Kill trainings of one name after another. A viewer reads that each has ended; what was recorded is whole."""
    chance = random.Random(seed)
    for number in range(rounds):
        with started(TRAINING, tmp_path / "run.npz", 1_000_000, "--sleep-s", "0.002") as trainer:

            def is_listed(trainer=trainer) -> bool:
                try:
                    with gradscope.connect(RUN, want="observe") as client:
                        return any(info.pid == trainer.pid and info.is_live for info in client.runs())
                except GradscopeError:
                    return False

            wait_for(is_listed, f"training {number}")
            with gradscope.connect(RUN) as client:
                client.latest()
                time.sleep(chance.random() * 0.3)
                os.kill(trainer.pid, signal.SIGKILL)
                wait_for(lambda client=client: not client.runs()[0].is_live, "the end of the run")
                ended = client.runs()[0]
                assert ended.has_failed
                assert "killed" in ended.reason
                with pytest.raises(GradscopeError, match="ended"):
                    client.pause(timeout_s=5)
    hub = hub_address()
    assert hub_answers(hub, 20)
    pid = hubs.pid_of_hub(hub)
    os.kill(pid, signal.SIGTERM)  # it closes the recordings
    wait_for(lambda: not hubs.is_alive(pid), "the end of the hub")
    recordings = list_recordings()
    assert len(recordings) == rounds
    for info in recordings:
        with open_recording(info.path) as recording:
            assert recording.check() == []
            numbers = recording.step_numbers()
            assert numbers == list(range(len(numbers)))
            assert numbers


def test_a_killed_training_is_reported_and_its_recording_is_whole(tmp_path):
    run_killed_trainings(tmp_path, 1, seed=1)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_20_killed_trainings_are_reported_and_their_recordings_are_whole(tmp_path):
    run_killed_trainings(tmp_path, 20, seed=2)
