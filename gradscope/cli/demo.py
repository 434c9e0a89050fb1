"""`gradscope demo`: trains a small model and opens it, or without a terminal runs the self-check."""

import importlib.util
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from gradscope.cli import output
from gradscope.cli.commands.watch import open_screen
from gradscope.cli.output import print_lines
from gradscope.cli.selfcheck.tour import run_tour
from gradscope.cli.selfcheck.trainer import Trainer, await_run, new_run_name
from gradscope.errors import MissingTorchError

__all__ = ["run_demo"]

_STEPS_ON_SCREEN = 20_000
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def run_demo(seed: int) -> int:
    """Run the demo and return the exit code. All processes of the demo end with it."""
    if importlib.util.find_spec("torch") is None:
        raise MissingTorchError(
            "gradscope demo trains with torch, which is not installed here: pip install torch"
        )
    with _interruptible():
        return _show(seed) if output.is_terminal() else run_tour(seed)


def _show(seed: int) -> int:
    name = new_run_name()
    options = ("--run-name", name, "--seed", str(seed), "--steps", str(_STEPS_ON_SCREEN))
    with Trainer(name, *options) as trainer:
        print_lines("starting a training; importing torch takes a few seconds ...")
        await_run(trainer, name="gradscope demo", want="observe").close()
        code = open_screen(name)
        trainer.is_done()
    print_lines(f"the training has ended with the screen; its output is in {trainer.log}")
    return code


@contextmanager
def _interruptible() -> Iterator[None]:
    """Convert signals that end a process to KeyboardInterrupt, so that everything is closed."""
    before = {number: signal.getsignal(number) for number in _ENDINGS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
