"""A process that behaves as a training process does on the link, without torch.

`python synthetic_agent.py RUN [--rate 20] [--seconds 60]`: it starts a hub where none runs, sends
manifest, steps and scalars, and obeys commands at its step boundaries. SIGTERM ends it with a goodbye.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from synthetic_run import SyntheticRun

from gradscope.protocol import Ack, Bye, Command, Hello, InterventionState, Welcome
from gradscope.transport import Link, ensure_hub


class Agent:
    def __init__(self, run, link):
        self.run, self.link = run, link
        self.step, self.revision = 0, 0
        self.entries, self.answers, self.waiting = [], {}, []

    def take(self, messages):
        for message in messages:
            if isinstance(message, Welcome):
                self.link.send(self.run.manifest())
                self.announce()
            elif isinstance(message, Command):
                if message.id in self.answers:
                    self.link.send(self.answers[message.id])
                else:
                    self.waiting.append(message)

    def announce(self):
        self.link.send(self.run.interventions(self.revision, self.step, *self.entries))

    def boundary(self):
        waiting, self.waiting = self.waiting, []
        for command in waiting:
            self.answers[command.id] = self.obey(command)
            self.link.send(self.answers[command.id])
        if waiting:
            self.announce()

    def obey(self, command):
        names = {layer.name for layer in self.run.layers}
        unknown = [name for name in command.layers if name not in names]
        if unknown:
            return Ack(
                command=command.id, run=self.run.run, is_done=False, reason=f"no layer {unknown[0]!r}"
            )
        self.revision += 1
        name = command.target or f"iv-{self.revision}"
        if command.action == "install":
            end = f"after {command.end_steps} steps" if command.end_steps else "60 s after its viewer"
            self.entries.append(
                InterventionState(
                    name,
                    command.intervention,
                    command.arguments,
                    command.layers,
                    command.site,
                    command.set_by,
                    self.step,
                    "kept" if command.is_kept else end,
                )
            )
        else:
            is_all = command.action == "remove_all"
            self.entries = [e for e in self.entries if not is_all and e.id != name]
        return Ack(
            command=command.id,
            run=self.run.run,
            is_done=True,
            step=self.step,
            id=name,
            layers=command.layers,
        )

    def train(self, rate_hz, until_s):
        while time.monotonic() < until_s:
            self.take(self.link.receive(1 / rate_hz))
            self.boundary()
            self.link.send(self.run.scalars(self.step))
            self.link.send(self.run.step(self.step))
            self.step += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run = SyntheticRun(run=options.run, start_s=time.time(), step_s=1 / options.rate)
    hello = Hello(
        role="agent",
        peer=f"agent-{os.getpid()}",
        run=options.run,
        pid=os.getpid(),
        script="train.py",
        started_s=time.time(),
        record=None,
    )
    link = Link(ensure_hub().agents, hello)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            Agent(run, link).train(options.rate, time.monotonic() + options.seconds)
        finally:
            link.close(Bye(reason="the training ended"))


if __name__ == "__main__":
    main()
