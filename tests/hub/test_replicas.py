"""Parameters that differ between the ranks of a real training are found by the hub; sound trainings are silent."""

import json
import runpy
from pathlib import Path

import pytest

from gradscope.cli.commands.diagnose import diagnose
from gradscope.recording import list_recordings
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
