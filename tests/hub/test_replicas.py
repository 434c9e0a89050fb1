"""Parameters that differ between the ranks of a real training are found by the hub; sound trainings are silent."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from gradscope.cli.commands.diagnose import diagnose
from gradscope.hub.ranks.replicas import Replicas
from gradscope.protocol import Hello, Layer, Manifest, Step, encode, pack_layers
from gradscope.protocol.bodies import pack_block
from gradscope.recording import list_recordings
from support.rank_rows import NAMES, rank_rows
from support.ranks import started_ranks

SCRIPT = Path(__file__).with_name("replica_training.py")
WAYS = runpy.run_path(str(SCRIPT))["WAYS"]


@pytest.fixture
def found(hub, wait_until, capsys):
    """The finding of each way of training, from its recording; None if there is none."""
    with started_ranks(SCRIPT) as ranks:
        ranks.finish(100)

    def are_ended():
        ended = {each.run for each in list_recordings() if each.ended_s is not None}
        return ended >= set(WAYS)

    wait_until(are_ended, "the end of the recordings")
    return {way: replicas_of(way, capsys) for way in WAYS}


def replicas_of(way, capsys):
    diagnose(way, as_json=True)
    findings = json.loads(capsys.readouterr().out)["findings"]
    return next((each for each in findings if each["code"] == "replicas-differ"), None)


def messages_of(rank, steps):
    """Return the Hello of a rank, its Manifest and its steps, as the hub gets them."""
    hello = Hello(role="agent", peer=f"p{rank}", run="late", rank=rank, world_size=2)
    body = pack_layers(tuple(Layer(name, "Linear") for name in NAMES))
    manifest = Manifest(
        run="late", rank=rank, revision=1, model="Net", layer_count=len(NAMES), body=body
    )
    generator = torch.Generator().manual_seed(rank)
    parameters = [torch.randn(40, 10, generator=generator) for _ in NAMES]
    _, block = rank_rows(parameters, [torch.ones(40, 10) for _ in NAMES], is_copy=rank > 0)
    columns, zero, packed = pack_block(block)
    sent = [
        Step(
            run="late", rank=rank, seq=step, step=step, time_s=0.0, manifest_revision=1,
            kinds=block.kinds, rows=len(block), columns=columns, zero=zero, body=packed,
        )
        for step in range(steps)
    ]  # fmt: skip
    return hello, encode(manifest), [encode(step) for step in sent]


def test_the_first_steps_of_a_rank_are_compared_if_another_one_joins_later():
    replicas = Replicas()
    (first, manifest, steps), (second, other_manifest, others) = messages_of(0, 40), messages_of(1, 2)
    replicas.add_manifest(first, manifest)
    assert [replicas.add_step(first, step, [0]) for step in steps] == [None] * 40
    replicas.add_manifest(second, other_manifest)
    assert replicas.add_step(second, others[0], [0, 1]) is None  # one step may differ by chance
    event = replicas.add_step(second, others[1], [0, 1])
    assert event.finding.code == "replicas-differ"
    assert event.finding.since_step == 0


@pytest.mark.processes
def test_the_hub_finds_which_parameters_are_not_the_same_on_all_ranks(found):
    silent = {way for way, each in found.items() if each is None}
    assert silent == {"ddp", "averaged", "fsdp", "shards"}
    changed = found["changed"]
    assert (changed["severity"], changed["layers"], changed["since_step"]) == ("error", ["2"], 6)
    assert changed["evidence"]["rank"] == 1
    assert "although they get the same gradient" in changed["message"]
    assert (found["unseeded"]["severity"], found["unseeded"]["since_step"]) == ("error", 0)
    assert set(found["unseeded"]["layers"]) == {"0", "2"}
    assert found["bypassed"]["severity"] == "hint"
    assert "trains alone" in found["bypassed"]["cause"]
