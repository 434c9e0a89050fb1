"""A thousand commands at random times: each acts from the acknowledged step on, not one before."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gradscope
from gradscope.errors import NothingToConnectError
from gradscope.protocol import Command
from support import fork_server

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]

SCRIPT = Path(__file__).with_name("obeying.py")
DEADLINE_S = 200
COMMANDS = 1_000
IN_FORCE = 8


def connect():
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return gradscope.connect("obeying")
        except NothingToConnectError:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


class Viewer:
    """Sends commands at random times, and keeps what was acknowledged."""

    def __init__(self, client, seed):
        self._client = client
        self._chance = random.Random(seed)
        self._waiting = []
        self._removable = []
        self.spans = {}
        """Of each intervention: its factor, the first step in force, and the first one in which it is
        over."""

    def send(self, count):
        for _ in range(count):
            self._collect(block=len(self._waiting) + len(self._removable) >= IN_FORCE)
            if self._removable and (self._chance.random() < 0.5 or len(self._removable) >= IN_FORCE):
                id = self._removable.pop(self._chance.randrange(len(self._removable)))
                self._waiting.append(
                    ("remove", id, self._client.send(Command(action="remove", target=id)))
                )
            else:
                self._install()
            time.sleep(self._chance.uniform(0, 0.006))
        while self._waiting:
            self._collect(block=True)

    def _install(self):
        layer, kind = self._chance.choice("012"), self._chance.randrange(3)
        if kind == 0:
            action, factor = ("reverse", {"alpha": 1.0}), -1.0
        else:
            factor = 2.0 ** self._chance.choice([-2, -1, 1, 2])
            action = ("scale", {"factor": factor})
        end_steps = self._chance.randrange(1, 6) if kind == 2 else None
        future = self._client.send(
            Command(
                action="install",
                intervention=action[0],
                arguments=action[1],
                layers=(layer,),
                is_kept=end_steps is None,
                end_steps=end_steps,
            )
        )
        self._waiting.append(("install", (factor, end_steps), future))

    def _collect(self, *, block):
        while self._waiting and (block or self._waiting[0][2].done()):
            what, told, future = self._waiting.pop(0)
            ack = future.result(DEADLINE_S)
            block = False
            if what == "remove":
                self.spans[told][2] = ack.step
            else:
                factor, end_steps = told
                self.spans[ack.id] = [factor, ack.step, end_steps and ack.step + end_steps]
                if end_steps is None:
                    self._removable.append(ack.id)


def test_a_thousand_commands_at_random_times_act_from_the_acknowledged_step_on(places, tmp_path):
    result, until = tmp_path / "result.npy", tmp_path / "until"
    command = [sys.executable, str(SCRIPT), str(result), str(until)]
    with fork_server.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            with connect() as client:
                viewer = Viewer(client, seed=7)
                viewer.send(COMMANDS)
        finally:
            until.touch()
            _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    factors = np.load(result)
    expected = np.ones(len(factors))
    for factor, first, over in viewer.spans.values():
        expected[first:over] *= factor
    wrong = np.flatnonzero(factors != expected)
    assert wrong.size == 0, (wrong[:5], factors[wrong[:5]], expected[wrong[:5]])
    changes = {step for _, first, over in viewer.spans.values() for step in (first, over)}
    assert len(changes) > COMMANDS / 4
