"""`gradscope diff`: what it prints, its exit codes, and input that is wrong."""

import json
import sqlite3

import msgspec
import pytest
from typer.testing import CliRunner

from gradscope.cli.app import app
from gradscope.comparison import compare_runs, open_side
from gradscope.protocol import Hello, encode
from gradscope.recording import Recorder, open_recording
from support.waiting import wait_for


def run(*arguments):
    result = CliRunner().invoke(app, ["diff", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_equal_runs_give_exit_code_0_and_say_how_they_were_compared(train):
    code, out, _ = run(train("a", steps=3), train("b", steps=3))
    assert code == 0
    assert "a and b are equal bit for bit in the 3 observed steps from 0 to 2" in out
    assert "Compared: 3 steps by digests of all tensors." in out


def test_different_runs_give_exit_code_1_place_cause_and_growth(train):
    code, out, _ = run(
        train("a", steps=3), train("b", steps=3, before={1: [lambda model, _: model.bn1.eval()]})
    )
    assert code == 1
    assert out.startswith("a and b differ from step 1 on: forward pass, `bn1`\n")
    assert "step 0 and all compared steps before are equal" in out
    assert "`bn1` (BatchNorm1d) is in eval mode in B and not in A" in out
    assert "How the difference grows" in out


def test_json_has_the_documented_fields(train):
    code, out, _ = run(train("a", steps=3), train("b", steps=3, seed=1), "--json")
    found = json.loads(out)
    assert code == 1
    assert found["version"] == 1
    assert found["equal"] is False
    assert found["runs"] == ["a", "b"]
    assert found["first_difference"]["pass"] == "parameters"
    assert found["first_difference"]["step"] == 0
    assert found["suspects"][0]["code"] == "seed"
    assert found["compared"] == {
        "steps": 3, "first_step": 0, "last_step": 2, "exact_steps": 3, "rounded_steps": 0, "tolerance": None,
    }  # fmt: skip


def test_a_range_of_steps_is_compared_alone(train):
    a, b = train("a"), train("b", before={4: [lambda model, _: model.bn1.eval()]})
    assert run(a, b, "--to", 3)[0] == 0
    assert run(a, b, "--from", 4)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("{a}", "nope"), 3, "there is no recording of a run 'nope'"),
        (("{a}", "{tmp}/nope.gradscope"), 3, "there is no recording"),
        (("{a}",), 2, "expected two runs, or --ranks"),
        (("{a}", "--ranks", "0"), 2, "expected one run and two ranks"),
        (("{a}", "{a}", "--ranks", "0,1"), 2, "expected one run and two ranks"),
        (("{a}", "--ranks", "0,7"), 3, "has no rank 7; recorded: rank 0"),
        (("{a}", "{a}:rank3"), 3, "has no rank 3"),
        (("{a}", "{a}", "--from", "90"), 2, "no step from 90 to the end was observed in both runs"),
        (("{a}", "{a}", "--from", "2", "--to", "1"), 2, "expected a range of steps"),
        (("{a}", "{a}", "--rtol", "2"), 2, "rtol must be at least 0 and below 1"),
        (("{a}", "{text}"), 3, "it is not an SQLite database"),
        (("{a}", "{other}"), 3, "another program's SQLite database"),
        (("{a}", "{cut}"), 3, "cannot be read"),
    ],
)
def test_wrong_input_is_a_clear_error_and_changes_nothing(train, tmp_path, arguments, code, text):
    a = train("a", steps=2)
    paths = {"a": a, "tmp": tmp_path}
    for name in ("text", "other", "cut"):
        paths[name] = tmp_path / f"{name}.gradscope"
    paths["text"].write_text("no database, but some text")
    with sqlite3.connect(paths["other"]) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    whole = a.read_bytes()
    paths["cut"].write_bytes(whole[: len(whole) // 3])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.gradscope")}
    found, _, error = run(*(each.format(**paths) for each in arguments))
    assert (found, text in error or error) == (code, True)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.gradscope")} == before


def test_a_file_of_a_newer_version_is_refused(train):
    a, b = train("a", steps=2), train("b", steps=2)
    with sqlite3.connect(b) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    code, _, error = run(a, b)
    assert code == 3
    assert "newer" in error or "version" in error


def test_a_run_that_is_being_written_is_compared_as_far_as_it_is_recorded(train, tmp_path):
    a = train("a", steps=3)
    with open_recording(a) as recording:
        messages = [*recording.manifests(), *recording.steps()]
    path = tmp_path / "live.gradscope"
    hello = Hello(role="agent", peer="p", run="live", pid=1, host="h", started_s=1.0)
    with Recorder(path, hello) as recorder:
        for message in messages[:-1]:
            recorder.add(message, encode(message))
        wait_for(lambda: recorder.counters["recorded"] == len(messages) - 1, "the messages")
        assert "equal bit for bit in the 2 observed steps" in run(a, path)[1]


def test_ranks_are_compared_by_what_is_the_same_on_all(train, tmp_path):
    """Rank 1 has other data, so other outputs; its parameters part from those of rank 0 in step 2."""
    with open_recording(train("a", steps=4)) as recording:
        manifest, steps = recording.manifests()[0], list(recording.steps())
    with open_recording(
        train("b", steps=4, before={1: [lambda model, _: model.bn1.eval()]})
    ) as recording:
        others = list(recording.steps())
    path = tmp_path / "ranks.gradscope"
    hello = Hello(role="agent", peer="p", run="ranks", pid=1, host="h", started_s=1.0, world_size=2)
    with Recorder(path, hello) as recorder:
        for rank, sent in ((0, [manifest, *steps]), (1, [manifest, *others])):
            for message in sent:
                changed = _of_rank(message, rank)
                recorder.add(changed, encode(changed))
    with open_side(f"{path}:rank0") as one, open_side(f"{path}:rank1") as two:
        found = compare_runs(one, two)
    assert (found.first.step, found.first.stage) == (1, "gradients")
    assert run(path, "--ranks", "0,1")[0] == 1


def _of_rank(message, rank):
    return msgspec.structs.replace(message, rank=rank)
