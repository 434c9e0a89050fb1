"""A training process as the link sees it: steps, a manifest, and obedience. Run by the tests.

    trainer.py RUN [STEPS]

After each step it waits for STEP_S. Without STEPS it runs until it is terminated.
"""

import os
import sys
import time

import msgspec
import numpy as np

from gradscope.columns import COLUMNS, Block
from gradscope.protocol import (
    Ack,
    Bye,
    Command,
    Hello,
    Interventions,
    InterventionState,
    Layer,
    Manifest,
    Message,
    Step,
    Welcome,
    pack_layers,
)
from gradscope.protocol.bodies import pack_block
from gradscope.transport import Link, ensure_hub

STEP_S = 0.01


class Trainer:
    def __init__(self, link: Link, run: str) -> None:
        self.link = link
        self.run = run
        self.step = 0
        self.entries: dict[str, InterventionState] = {}
        self.answers: dict[bytes, Ack] = {}

    def on_message(self, message: Message) -> None:
        if isinstance(message, Welcome):
            body = pack_layers((Layer("fc1", "Linear"), Layer("fc2", "Linear")))
            self.link.send(
                Manifest(run=self.run, rank=0, revision=1, model="Net", layer_count=2, body=body)
            )
            self.announce()
        elif isinstance(message, Command):
            if message.id not in self.answers:
                self.answers[message.id] = self.obey(message)
            self.announce()
            self.link.send(self.answers[message.id])

    def obey(self, command: Command) -> Ack:
        entry_id = f"i{len(self.answers)}"
        if command.action == "install" and command.layers != ("fc1",):
            reason = f"no layer matches {command.layers}; nearest: fc1"
            return Ack(command=command.id, run=self.run, is_done=False, reason=reason)
        if command.action == "install":
            self.entries[entry_id] = InterventionState(
                id=entry_id, action=command.intervention, arguments=command.arguments,
                layers=command.layers, site=command.site, set_by=command.set_by, active_since=self.step,
                choices=command.choices, schedule=command.schedule,
            )  # fmt: skip
        elif command.action == "remove":
            self.entries.pop(command.target, None)
        else:
            self.entries.clear()
        done = Ack(command=command.id, run=self.run, is_done=True, step=self.step)
        return msgspec.structs.replace(done, id=entry_id, layers=command.layers)

    def announce(self) -> None:
        entries = tuple(self.entries.values())
        self.link.send(
            Interventions(
                run=self.run, rank=0, revision=len(self.answers), step=self.step, entries=entries
            )
        )

    def send_step(self) -> None:
        """Send a step whose every number is the step's own index."""
        number = np.full(2, float(self.step))
        values = {c.name: number.astype(np.uint64) if c.is_count else number for c in COLUMNS}
        zeros = np.zeros(2, np.uint32)
        block = Block(("grad",), np.arange(2, dtype=np.uint32), zeros, zeros.astype(np.uint8), values)
        columns, zero, body = pack_block(block)
        step = Step(
            run=self.run,
            rank=0,
            seq=self.step,
            step=self.step,
            time_s=time.time(),
            manifest_revision=1,
            kinds=("grad",),
            rows=2,
            columns=columns,
            zero=zero,
            body=body,
        )
        self.link.send(step)


def main(run: str, steps: float) -> None:
    hello = Hello(
        role="agent", peer=f"{run}-{os.getpid()}", run=run, pid=os.getpid(), record="",
        host=os.uname().nodename, started_s=time.time(),
    )  # fmt: skip
    with Link(ensure_hub(timeout_s=30.0).agents, hello) as link:
        trainer = Trainer(link, run)
        while trainer.step < steps:
            if link.state.phase == "lost":
                ensure_hub(timeout_s=30.0)
            for message in link.receive(STEP_S):
                trainer.on_message(message)
            if link.state.phase == "up":
                trainer.send_step()
                trainer.step += 1
        link.close(Bye(reason="trained to the end"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else float("inf"))
