"""Two real ranks: bitwise the same with and without, and merged they are one process's numbers."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import gradscope
from gradscope.columns import Flags
from gradscope.errors import NothingToConnectError
from support.waiting import wait_for

SCRIPT = Path(__file__).with_name("distributed_training.py")
training = runpy.run_path(str(SCRIPT))
pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]

DEADLINE_S = 100
OF_PARAMETERS = ("param", "param_grad", "update")


def single(way):
    """The last step of one process that trains on what both ranks have together."""
    model = training["make_model"]()
    optimizer = training["make_optimizer"](model)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        for step in range(training["STEPS"]):
            training["train_step"](
                NeverSynchronised(model), optimizer, training["batches_of"](way, step, [0, 1])
            )
        return scope.latest()


class NeverSynchronised:
    """A model with the `no_sync` of DDP: one process has no other to synchronise with."""

    def __init__(self, model):
        self._model = model

    def __call__(self, batch):
        return self._model(batch)

    def no_sync(self):
        return training["contextlib"].nullcontext()


def newest(way):
    """The last step of both ranks merged, and of each."""

    def attempt():
        try:
            client = gradscope.connect(way)
        except NothingToConnectError:
            return None
        with client:
            table = client.latest(timeout_s=DEADLINE_S)
            if table.step < training["STEPS"] - 1 or table.missing:
                return None
            return table, [client.latest(rank=rank) for rank in range(2)]

    return wait_for(attempt, f"the last step of {way}", DEADLINE_S)


@pytest.fixture
def told(places, tmp_path):
    """What both ranks wrote down, and what a client saw of each way of training."""
    result, until = tmp_path / "result", tmp_path / "until"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *(str(SCRIPT), str(result), str(until)),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            files = [Path(f"{result}.{rank}") for rank in range(2)]
            wait_for(
                lambda: all(f.exists() for f in files) or process.poll() is not None,
                "ranks",
                DEADLINE_S,
            )
            seen = {way: newest(way) for way in training["WAYS"]} if process.poll() is None else {}
        finally:
            until.touch()
            _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors[-3000:]
    assert "Traceback" not in errors, errors[-3000:]
    return [json.loads(f.read_text()) for f in files], seen


def check_equal(found, expected, factor=1.0):
    """Compare a merged row with the reference's; gradients of outputs are `factor` times as great."""
    assert (found.count, found.nonfinite) == (expected.count, expected.nonfinite)
    assert Flags.DIFFERS not in found.flags
    assert found.norm == pytest.approx(factor * expected.norm, rel=1e-5)
    assert found.sum == pytest.approx(factor * expected.sum, rel=1e-4, abs=1e-5)
    assert found.min == pytest.approx(factor * expected.min, rel=1e-5)
    assert found.max == pytest.approx(factor * expected.max, rel=1e-5)


def test_two_ranks_train_the_same_and_their_merged_rows_equal_one_process(told):
    kept, seen = told
    for rank, of_rank in enumerate(kept):
        for way in training["WAYS"]:
            expected = {"is_equal": True, "faults": {}, "ranks": [rank], "steps": training["STEPS"]}
            assert of_rank[way] == expected, way
    for way, (merged, ranks) in seen.items():
        reference = single(way)
        assert (merged.step, merged.ranks, merged.missing) == (training["STEPS"] - 1, (0, 1), ())
        for layer in ("0", "1", "2"):
            out, grad = merged[layer]["out"], merged[layer]["grad"]
            assert out.calls == 2 * reference[layer]["out"].calls
            check_equal(out, reference[layer]["out"])
            # Each rank's loss is the mean over its half: its gradients are twice the whole mean's.
            check_equal(grad, reference[layer]["grad"], factor=2.0)
        for layer in ("0", "2"):
            kinds = [kind for kind in reference[layer] if kind.startswith(OF_PARAMETERS)]
            assert len(kinds) == 9  # each of three as a whole, and of weight and bias
            for kind in kinds:
                check_equal(merged[layer][kind], reference[layer][kind])
                rows = [table[layer][kind] for table in ranks]
                is_copied = [Flags.REPLICA in row.flags for row in rows]
                assert is_copied == ([False, False] if way == "fsdp" else [False, True])
