"""The snapshot of histories made by hand: its size, its choice of layers, its numbers."""

import json
import math

import numpy as np
import pytest

from gradscope.columns import Block, Flags, Table
from gradscope.errors import UnknownLayerError
from gradscope.findings import CODES, compact_json
from gradscope.findings import finding as make_finding
from gradscope.history import RunHistory, layer_cells, snapshot_as_json, snapshot_lines
from gradscope.history.snapshot import SIZE_LIMIT
from gradscope.protocol import Event, Layer


def table(step, names, grad_rms=None, flags=()):
    """A step in which each layer has 4 outputs of rms 2 and 4 gradients of rms 1, if not given otherwise."""
    rows = [(layer, kind) for layer in range(len(names)) for kind in (0, 1)]
    rms = np.array([2.0 if kind == 0 else (grad_rms or {}).get(names[i], 1.0) for i, kind in rows])
    zeros = np.zeros(len(rows))
    values = dict.fromkeys(("nan", "posinf", "neginf", "sum"), zeros)
    values |= {"calls": zeros + 1, "count": zeros + 4, "sumsq": 4 * rms**2, "min": -rms, "max": rms}
    marks = [Flags.NOT_MEASURED if names[layer] in flags else 0 for layer, _ in rows]
    layer, kind = (np.array(column, np.uint32) for column in zip(*rows, strict=True))
    return Table(step, names, Block(("out", "grad"), layer, kind, np.array(marks, np.uint8), values))


def history(names, tables, **more):
    layers = tuple(Layer(name=name, type="Linear") for name in names)
    return RunHistory("run", steps=tables[-1].step + 1, layers=layers, tables=tables, **more)


def rows_of(document):
    return {row[0]: dict(zip(document["columns"], row, strict=True)) for row in document["layers"]}


def test_a_layer_has_its_numbers_and_their_change_against_the_median_before():
    names = ["a", "b"]
    tables = [table(step, names, {"a": rms}) for step, rms in enumerate([1.0, 2.0, 30.0])]
    rows = rows_of(snapshot_as_json(history(names, [*tables, table(3, names, {"a": 6.0})])))
    assert rows["a"]["grad_norm"] == pytest.approx(math.sqrt(4 * 36))
    assert rows["a"]["grad_norm_change"] == pytest.approx(6.0 / 2.0)
    assert rows["b"]["out_rms"] == 2.0
    assert rows["b"]["out_rms_change"] == 1.0
    assert rows["b"]["param_norm"] is None


def test_what_was_not_measured_is_null_and_not_zero():
    document = snapshot_as_json(history(["a"], [table(0, ["a"], flags=["a"])]))
    assert rows_of(document)["a"]["grad_norm"] is None
    assert "·" in layer_cells(document)[0]


@pytest.mark.parametrize("count", [3, 40, 400, 4000])
def test_it_has_less_than_4000_tokens_whatever_the_run_has(count):
    names = [f"model.transformer.decoder.block.{i}.self_attention.projection" for i in range(count)]
    events = [
        Event(
            run="run",
            rank=0,
            step=step,
            time_s=float(step),
            level="warning",
            code=code,
            text=f"{code} " * 100,
            finding=None
            if step % 2
            else make_finding(code, "a sentence " * 80, step=step, layers=tuple(names[step::40])),
        )
        for step, code in enumerate(CODES)
    ]
    scalars = {f"a_long_name_of_a_scalar_{i}": {s: s / 7 for s in range(500)} for i in range(30)}
    tables = [table(step, names, {names[-2]: step * 1e-7}) for step in (1, 2)]
    document = snapshot_as_json(history(names, tables, events=events, scalars=scalars))
    text = compact_json(document)
    assert len(text) <= SIZE_LIMIT
    assert json.loads(text) == document
    assert len(rows_of(document)) >= min(count, 10)
    assert document["left_out"]["layers"] == count - len(document["layers"])
    assert document["left_out"]["findings"] > 0
    assert document["left_out"]["scalars"] == 22
    assert snapshot_lines(document)


def test_of_many_layers_those_of_findings_and_extremes_are_chosen():
    names = [f"layer{i}" for i in range(300)]
    found = make_finding("dead-units", "all dead", step=1, layers=("layer77",))
    event = Event(
        run="run", rank=0, step=1, time_s=0.0, level="warning", code="x", text="", finding=found
    )
    rms = {"layer5": 1e9, "layer6": 1e-9}
    tables = [table(0, names), table(1, names, rms)]
    document = snapshot_as_json(history(names, tables, events=[event]))
    rows = rows_of(document)
    assert "dead-units" in rows["layer77"]["reason"]
    assert "grad_norm grew most" in rows["layer5"]["reason"]
    assert "smallest grad_norm" in rows["layer6"]["reason"]
    assert {"layer0", "layer299"} <= set(rows)
    assert document["ranges"]["grad_norm"]["median"] == 2.0
    assert "are not shown" in document["left_out"]["note"]


def test_named_layers_are_shown_and_an_unknown_one_is_an_error():
    names = [f"layer{i}" for i in range(100)]
    run = history(names, [table(0, names)])
    assert list(rows_of(snapshot_as_json(run, layers=["layer3*"]))) == [
        "layer3",
        *(f"layer3{i}" for i in range(10)),
    ]
    with pytest.raises(UnknownLayerError, match="no layer matches 'fc'"):
        snapshot_as_json(run, layers=["fc"])


def test_the_scalars_next_to_the_step_are_shown():
    loss = {step: float(step) for step in range(0, 1000, 2)}
    run = history(["a"], [table(500, ["a"])], scalars={"loss": loss})
    assert snapshot_as_json(run, around=501)["scalars"]["loss"] == [[s, s] for s in range(492, 513, 2)]
    newest = snapshot_as_json(run)["scalars"]["loss"]
    assert [newest[0], newest[-1], len(newest)] == [[0, 0.0], [998, 998.0], 11]


def test_a_run_without_an_observed_step_has_a_snapshot():
    document = snapshot_as_json(RunHistory("run"))
    assert document["step"] is None
    assert document["verdict"] == "no verdict yet: no step has ended"
