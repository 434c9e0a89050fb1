"""What the tests of all trainers share: the data, a client that intervenes, and the scalars of a recording."""

import sys
import threading

import pytest
import torch

import gradscope
from gradscope.errors import RecordingError
from gradscope.recording import default_path, open_recording
from support import fork_server
from support.waiting import wait_for


@pytest.fixture
def data():
    """Return 32 batches of 4 samples: five inputs each, and their sum."""
    x = torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))


@pytest.fixture
def scalars_of(hub):
    """Return a function: the scalars of a run in its recording, by step, once the last step is there."""

    def read(run, last_step):
        def found():
            try:
                with open_recording(default_path(run)) as recording:
                    by_step = {}
                    for message in recording.scalars():
                        for name, values in message.values.items():
                            for step, value in zip(message.steps, values, strict=True):
                                if value is not None:
                                    by_step.setdefault(step, {})[name] = value
            except RecordingError:
                return None
            return by_step if last_step in by_step else None

        return wait_for(found, f"step {last_step} in the recording of {run}")

    return read


class Intervention:
    """A client in a thread that stops the gradients of a layer. `step`: in force since; None until then."""

    def __init__(self, run, layer):
        self.step = None
        self._thread = threading.Thread(target=self._send, args=(run, layer))
        self._thread.start()

    def _send(self, run, layer):
        with gradscope.connect(run) as client:
            self.step = client.stop(layer, site="params").step

    def join(self):
        self._thread.join(60)


@pytest.fixture
def intervene(hub):
    """Return a function that stops the gradients of a layer from a client, like a user at a terminal."""
    sent = []

    def start(run, layer):
        sent.append(Intervention(run, layer))
        return sent[-1]

    yield start
    for each in sent:
        each.join()


@pytest.fixture
def fresh_without():
    """Return a function that runs a line in a fork in which some packages are not installed; it returns stderr."""

    def run(packages, line):
        script = (
            "import sys\nfrom importlib import metadata, util\n"
            f"hidden = {packages}\n"
            "version, find = metadata.version, util.find_spec\n"
            "def missing(name):\n"
            "    if name.replace('-', '_') in hidden: raise metadata.PackageNotFoundError(name)\n"
            "    return version(name)\n"
            "metadata.version = missing\n"
            "util.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)\n"
        )
        ended = fork_server.run(
            [sys.executable, "-c", script + line], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 1
        return ended.stderr

    return run
