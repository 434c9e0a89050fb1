"""`gradscope export`: the recorded numbers, read back by other programs; what it refuses."""

import csv
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gradscope.cli.app import app
from gradscope.errors import UsageError
from gradscope.export.selection import rows as read_rows
from gradscope.export.selection import select, step_range
from gradscope.recording import open_recording
from support.recordings import ELEMENTS, KINDS, block_of, make_recording

NAMES = ("stem", "blocks.0", "head")
STEPS = range(0, 60, 2)


def numbers(step):
    """The root mean squares of a step: `head` has no gradient that was measured."""
    rms = np.random.default_rng(step).uniform(0.1, 3.0, (len(NAMES), len(KINDS)))
    rms[2, 1] = np.nan
    return rms


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "recorded"
    folder.mkdir()
    nan = np.array([0, ELEMENTS, 0])  # all outputs of `blocks.0`
    blocks = {step: block_of(numbers(step), nan) for step in STEPS}
    return make_recording(
        folder / "known.gradscope", blocks, names=NAMES, findings=[("loss-spike", 30, "it rises", ())]
    )


def export(source, target, *more):
    return CliRunner().invoke(app, ["export", str(source), "-o", str(target), *more])


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_csv_has_the_recorded_numbers_and_nothing_where_none_was_measured(source, tmp_path):
    ran = export(source, tmp_path / "out.csv")
    assert ran.exit_code == 0, ran.output
    lines = list(csv.DictReader((tmp_path / "out.csv").read_text("utf-8").splitlines()))
    assert len(lines) == len(STEPS) * len(NAMES) * len(KINDS)
    found = {(int(line["step"]), line["layer"], line["kind"]): line for line in lines}
    for step in STEPS:
        for layer, row in zip(NAMES, numbers(step), strict=True):
            for kind, rms in zip(KINDS, row, strict=True):
                line = found[step, layer, kind]
                if np.isnan(rms):
                    assert line["flags"] == "not_measured"
                    assert {line[stat] for stat in ("norm", "rms", "count", "nonfinite")} == {""}
                elif layer == "blocks.0" and kind == "out":
                    assert (line["count"], line["nonfinite"]) == ("4", "4")
                    assert {line[stat] for stat in ("norm", "rms", "min", "max", "absmax")} == {""}
                else:
                    assert float(line["rms"]) == pytest.approx(rms)
                    assert float(line["norm"]) == pytest.approx(np.sqrt(ELEMENTS) * rms)
                    assert float(line["time_s"]) == 1e9 + step


def test_json_lines_have_null_where_nothing_was_measured(source, tmp_path):
    assert export(source, tmp_path / "out.jsonl", "--layers", "head", "--kinds", "grad").exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(STEPS)
    assert {line["norm"] for line in lines} == {None}


def test_layers_kinds_statistics_and_steps_are_chosen(source, tmp_path):
    chosen = (
        "--layers",
        "stem",
        "--layers",
        "blocks.*",
        "--kinds",
        "param",
        "--stats",
        "norm",
        "--steps",
        "10:14",
    )
    assert export(source, tmp_path / "out.csv", *chosen).exit_code == 0
    lines = list(csv.reader((tmp_path / "out.csv").read_text("utf-8").splitlines()))
    assert lines[0] == ["step", "time_s", "layer", "kind", "norm", "flags"]
    assert [(line[0], line[2], line[3]) for line in lines[1:]] == [
        (str(step), layer, "param.weight") for step in (10, 12, 14) for layer in ("stem", "blocks.0")
    ]


def test_stdout_gets_the_table_and_nothing_else(source):
    ran = export(source, "-", "--format", "jsonl", "--steps", "4:4", "--kinds", "out")
    assert [json.loads(line)["layer"] for line in ran.stdout.splitlines()] == list(NAMES)


def test_pandas_reads_the_parquet(source, tmp_path):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    assert export(source, tmp_path / "out.parquet").exit_code == 0
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    assert len(frame) == len(STEPS) * len(NAMES) * len(KINDS)
    assert frame["count"].dropna().unique().tolist() == [ELEMENTS]
    of_stem = frame[(frame.layer == "stem") & (frame.kind == "grad")]
    assert of_stem.rms.tolist() == pytest.approx([numbers(step)[0, 1] for step in STEPS])
    assert frame[(frame.layer == "head") & (frame.kind == "grad")].norm.isna().all()


def test_the_script_of_the_page_reads_the_parquet(source, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    assert export(source, tmp_path / "run.parquet").exit_code == 0
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "export.md", "exec"), {})
    assert "stem" in capsys.readouterr().out


def test_the_reader_of_tensorboard_reads_the_events(source, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ran = export(
        source, tmp_path / "tb", "--format", "tensorboard", "--layers", "stem", "--steps", "10:40"
    )
    assert ran.exit_code == 0, ran.output
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    loss = events.Scalars("loss")
    assert [event.step for event in loss] == list(range(10, 41))
    assert [event.value for event in loss] == pytest.approx([1 / (1 + event.step) for event in loss])
    norms = events.Scalars("layers/stem/grad_norm")
    assert [event.step for event in norms] == [step for step in STEPS if 10 <= step <= 40]
    assert [e.value for e in norms] == pytest.approx([2 * numbers(e.step)[0, 1] for e in norms])
    assert "gradscope/loss-spike/text_summary" in events.Tags()["tensors"]
    again = export(source, tmp_path / "tb", "--format", "tensorboard")
    assert again.exit_code == 2
    assert export(source, tmp_path / "tb", "--format", "tensorboard", "--force").exit_code == 0


def test_the_memory_does_not_grow_with_the_length_of_the_run(tmp_path):
    def peak(steps):
        blocks = {step: block_of(np.ones((20, len(KINDS)))) for step in range(steps)}
        path = make_recording(tmp_path / f"{steps}.gradscope", blocks, names=tuple(map(str, range(20))))
        with open_recording(path) as recording:
            selection = select(recording)
            tracemalloc.start()
            try:
                for _ in read_rows(recording, selection):
                    pass
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    few, many = peak(200), peak(600)
    assert many < 1.5 * few


def test_wrong_use_says_what_and_changes_nothing(source, places, tmp_path):
    target = tmp_path / "out.csv"
    cut, other = source.parent / "cut.gradscope", source.parent / "other.gradscope"
    cut.write_bytes(source.read_bytes()[:5000])
    other.write_text("not a recording")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    before = files_in(tmp_path)
    for arguments, code, words in (
        (("nope", target), 3, "no recording of a run 'nope'"),
        ((source.parent / "nope.gradscope", target), 3, "there is no recording"),
        ((cut, target), 3, "cut.gradscope"),
        ((other, target), 3, "other.gradscope"),
        ((source, tmp_path / "out.xlsx"), 2, "ends with .csv"),
        ((source, tmp_path / "missing" / "out.csv"), 2, "create it first"),
        ((source, target, "--layers", "nope"), 2, "no layer matches 'nope'"),
        ((source, target, "--kinds", "nope"), 2, "--kinds"),
        ((source, target, "--stats", "nope"), 2, "--stats"),
        ((source, target, "--steps", "500:600"), 2, "within 0:58"),
        ((source, target, "--steps", "20:10"), 2, "within 0:58"),
        ((source, target, "--steps", "ten"), 2, "A:B"),
        ((source, target, "--steps", "11:11"), 2, "nothing to export"),
        ((source, "-", "--format", "parquet"), 2, "stdout"),
        ((source, tmp_path / "mine", "--format", "tensorboard", "--force"), 2, "other files"),
        ((source, tmp_path / "tb", "--format", "tensorboard", "--kinds", "grad"), 2, "--layers"),
    ):
        ran = export(*arguments)
        assert (ran.exit_code, words in ran.output) == (code, True), (arguments, ran.output)
        assert files_in(tmp_path) == before
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_a_file_is_replaced_only_with_force_and_only_by_a_whole_one(source, tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("mine")
    assert export(source, target).exit_code == 2
    assert export(source, target, "--force", "--steps", "11:11").exit_code == 2
    assert target.read_text() == "mine"
    assert export(source, target, "--force").exit_code == 0
    assert target.read_text("utf-8").startswith("step,time_s,layer,kind")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "recorded"]


@pytest.mark.parametrize(
    ("text", "expected"), [("3:9", (3, 9)), ("3:", (3, None)), (":9", (None, 9)), (":", (None, None))]
)
def test_a_range_of_steps_may_be_open(text, expected):
    assert step_range(text) == expected


@pytest.mark.parametrize("text", ["3", "a:b", "-3:5", "1:2:3"])
def test_another_range_is_refused(text):
    with pytest.raises(UsageError, match="A:B"):
        step_range(text)
