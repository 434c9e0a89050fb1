"""How a run ends, as its viewers read it: every way in which a Python process ends."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import gradscope
from gradscope.agent.link import process_end
from gradscope.client import connect

PROGRAM = f"""
import atexit, importlib.util, signal, sys
spec = importlib.util.spec_from_file_location("process_end", {process_end.__file__!r})
process_end = importlib.util.module_from_spec(spec)
spec.loader.exec_module(process_end)
observer = process_end.ExitCodeObserver()
observer.install()

@atexit.register
def report():
    bye = process_end.exit_reason(observer.code)
    print(bye.reason, bye.has_failed, sep="|")

"""
FINISHED = "the process exited|False"

ENDS = {
    "def train():\n    raise RuntimeError('two\\nlines')\ntrain()": "RuntimeError: two lines|True",
    "sys.excepthook = lambda *_: None\nraise OSError": "OSError|True",
    "signal.raise_signal(signal.SIGINT)": "KeyboardInterrupt (Ctrl-C)|True",
    "sys.exit(3)": "the process exited with code 3|True",
    "def train():\n    kept = [1]\n    sys.exit(3)\ntrain()": "the process exited with code 3|True",
    "sys.exit('no data')": "the process exited with code 1: no data|True",
    "sys.exit(0)": FINISHED,
    "try:\n    sys.exit(4)\nexcept SystemExit:\n    sys.exit(5)": "the process exited with code 5|True",
    "try:\n    sys.exit(4)\nexcept SystemExit:\n    pass": FINISHED,
    "try:\n    sys.exit(4)\nexcept SystemExit as error:\n    kept = error": FINISHED,
    "import threading\nthread = threading.Thread(target=sys.exit, args=(7,))\nthread.start()": FINISHED,
    "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    sys.last_value = error": FINISHED,
    "raise SystemExit(3)": "the process exited by SystemExit, code not known|False",
    "": FINISHED,
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_process_is_named_and_its_exit_code_is_unchanged(tmp_path: Path, end: str) -> None:
    script = tmp_path / "script.py"
    script.write_text("import signal, sys\n" + end)
    bare = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=60, check=False)
    script.write_text(PROGRAM + end)
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (bare.returncode, ENDS[end])


def raise_in_with(scope: gradscope.Scope) -> None:
    with pytest.raises(RuntimeError, match="boom"), scope:
        raise RuntimeError("boom")


@pytest.mark.processes
@pytest.mark.usefixtures("ended_hubs")
def test_viewers_read_how_a_run_of_a_living_process_ended(wait_until: Callable[..., None]) -> None:
    models = {name: nn.Linear(2, 2) for name in ("detached", "raised", "collected")}
    scopes = {name: gradscope.attach(m, name=name, quiet=True) for name, m in models.items()}
    wait_until(lambda: all(scope.endpoint for scope in scopes.values()), "a hub")
    with connect(want="observe") as client:
        wait_until(lambda: len(client.runs()) == 3, "three runs")
        scopes["detached"].detach()
        raise_in_with(scopes["raised"])
        del models["collected"]
        assert all(scope.is_detached for scope in scopes.values())
        wait_until(lambda: not any(info.is_live for info in client.runs()), "the end of all runs")
        assert {info.run: (info.reason, info.has_failed) for info in client.runs()} == {
            "detached": ("detached", False),
            "raised": ("RuntimeError: boom", True),
            "collected": ("the model was garbage-collected", False),
        }


def test_sys_exit_is_restored_when_the_run_has_ended() -> None:
    before, model = sys.exit, nn.Linear(2, 2)
    scope = gradscope.attach(model, hub=None, quiet=True)
    assert sys.exit is before  # without a hub there is nothing to report
    scope.detach()
    observers = [process_end.ExitCodeObserver() for _ in range(3)]
    for observer in observers:
        observer.install()
    for index in (1, 2, 0):
        observers[index].remove()
    assert sys.exit is before
