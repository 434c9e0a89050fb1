"""A viewer that watches a run until it is killed: `watcher.py RUN`. It prints each step that it receives."""

import sys

import gradscope


def main(run: str) -> None:
    with gradscope.connect(run, want="observe", name="watcher") as client:
        client.watch(run, max_rate_hz=1_000.0)
        while True:
            for message in client.receive(1.0):
                if message.__class__.__name__ == "Step":
                    print(message.step, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
