"""Repeated blocks: which siblings repeat, their medians, and the layer that differs most."""

import statistics

import numpy as np
import pytest
from synthetic_run import SyntheticRun, gpt_layers, parameter

from gradscope.protocol import Layer
from gradscope_tui.store.layers import build_tree
from gradscope_tui.store.repeats import find_repeats, spread_of
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.layout import choose_columns
from gradscope_tui.view.rows import RowOrder, list_rows
from gradscope_tui.view.table import TableView, row_cells


def linear(name, rows=8, columns=8):
    return Layer(name, "Linear", (parameter("weight", rows, columns),))


def names_of(layers):
    """The blocks of each repeat, each block as the names of its siblings."""
    tree = build_tree(layers)
    return [
        [[layers[row[i]].name for i in repeat.siblings] for row in repeat.nodes]
        for repeat in find_repeats(tree).values()
    ]


def test_the_blocks_of_a_transformer_are_one_repeat_with_all_inner_layers():
    layers = gpt_layers(blocks=4)
    (repeat,) = find_repeats(build_tree(layers)).values()
    assert repeat.nodes.shape == (4, 10)
    assert [layers[i].name for i in repeat.nodes[2]] == [
        layer.name for layer in layers if f"{layer.name}.".startswith("blocks.2.")
    ]


def test_layers_that_alternate_in_a_sequential_are_blocks_of_two():
    layers = [linear("0", 8, 3)]
    for i in range(1, 9, 2):
        layers += [Layer(str(i), "ReLU"), linear(str(i + 1))]
    assert names_of(layers) == [[["1", "2"], ["3", "4"], ["5", "6"], ["7", "8"]]]


@pytest.mark.parametrize(
    "layers",
    [
        [linear("a"), linear("b")],
        [linear("a"), linear("b", 9), linear("c")],
        [linear("a"), Layer("b", "ReLU"), linear("c"), Layer("d", "Tanh")],
        [],
    ],
    ids=["two", "shapes", "types", "empty"],
)
def test_fewer_than_three_equal_blocks_are_not_a_repeat(layers):
    assert names_of(layers) == []


def test_stages_of_different_width_are_repeats_of_their_own():
    layers = [Layer(f"stage{s}", "Sequential") for s in (1, 2)]
    layers += [linear(f"stage{s}.{i}", 8 * s) for s in (1, 2) for i in range(3)]
    assert names_of(layers) == [[[f"stage{s}.{i}"] for i in range(3)] for s in (1, 2)]


def frame_of(run, steps=6):
    store = RunStore(run.run)
    store.feed(run.manifest())
    for step in range(steps):
        store.feed(run.step(step))
    return store.frame()


class SickRun(SyntheticRun):
    """The gradient of one layer is multiplied by a factor."""

    sick, factor = "blocks.3.mlp.fc2", 1e-6

    def block(self, step):
        block = super().block(step)
        at = [layer.name for layer in self.layers].index(self.sick)
        rows = (block.layer == at) & (block.kind == 1)
        for column, power in (("sum", 1), ("sumsq", 2), ("min", 1), ("max", 1)):
            block.values[column][rows] *= self.factor**power
        return block


def test_the_median_is_over_the_blocks_and_the_layer_with_the_tiny_gradient_is_the_furthest():
    run = SickRun(layers=gpt_layers(blocks=7))
    frame = frame_of(run)
    (repeat,) = find_repeats(frame.tree).values()
    spread = spread_of(repeat, frame)
    blocks = [frame.tree.find(f"blocks.{i}") for i in range(7)]
    for name, median in spread.median.items():
        expected = statistics.median(frame.measured.values[name][blocks].tolist())
        assert median == pytest.approx(expected, rel=1e-12)
    assert frame.tree.layers[spread.furthest.node].name == SickRun.sick
    others = [frame.tree.find(f"blocks.{i}.mlp.fc2") for i in range(7)]
    gradients = frame.measured.values["grad_norm"][others]
    assert spread.furthest.quantity == "grad_norm"
    assert spread.furthest.ratio == pytest.approx(gradients[3] / statistics.median(gradients.tolist()))


def test_a_layer_with_nan_is_the_furthest_and_its_block_is_counted():
    frame = frame_of(SyntheticRun(layers=gpt_layers(blocks=5), broken={0: ("blocks.4.norm1", 3)}))
    (repeat,) = find_repeats(frame.tree).values()
    spread = spread_of(repeat, frame)
    assert frame.tree.layers[spread.furthest.node].name == "blocks.4.norm1"
    assert np.isnan(spread.furthest.ratio)
    assert spread.broken == {"out_std": 1, "grad_norm": 1, "param_grad_norm": 0, "update_ratio": 0}


def test_the_furthest_layer_stays_while_no_other_is_much_further():
    frame = frame_of(SyntheticRun(layers=gpt_layers(blocks=7)))
    (repeat,) = find_repeats(frame.tree).values()
    first = spread_of(repeat, frame).furthest
    kept = [
        found
        for node in repeat.nodes.ravel().tolist()
        if (found := spread_of(repeat, frame, node).furthest).node == node != first.node
    ]
    assert all(first.deviations / 1.5 <= each.deviations < first.deviations for each in kept)
    sick = frame_of(SickRun(layers=gpt_layers(blocks=7)))
    assert sick.tree.layers[spread_of(repeat, sick, first.node).furthest.node].name == SickRun.sick


def test_before_the_first_step_nothing_is_measured():
    store = RunStore("gpt-7f3a")
    store.feed(SyntheticRun().manifest())
    frame = store.frame()
    (repeat,) = find_repeats(frame.tree).values()
    spread = spread_of(repeat, frame)
    assert spread.furthest is None
    assert all(np.isnan(value) for value in spread.median.values())


def view_of(frame, width):
    repeats = find_repeats(frame.tree)
    listing = list_rows(frame, RowOrder(), (), repeats)
    spreads = {first: spread_of(repeat, frame) for first, repeat in repeats.items()}
    return TableView(frame, listing, RowOrder(), choose_columns(width), spreads=spreads)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("steps", [0, 6])
def test_1500_layers_are_eight_rows_that_fill_their_width(width, steps):
    frame = frame_of(SickRun(layers=gpt_layers(blocks=150)), steps)
    view = view_of(frame, width)
    rows = ["".join(cell.text for cell in row_cells(view, row)) for row in range(8)]
    assert len(view.listing.nodes) == 8
    assert {len(row) for row in rows} == {width - 1}
    assert "×150" in rows[4]  # noqa: RUF001
    assert ("3.mlp.fc2" in rows[5]) == (steps > 0)
    assert ("‖∇out‖ ×" in rows[5]) == (steps > 0 and width >= 120)  # noqa: RUF001


def test_the_numbers_of_a_folded_repeat_are_marked_as_medians():
    view = view_of(frame_of(SickRun(layers=gpt_layers(blocks=7))), 120)
    cells = row_cells(view, 4)
    assert [cell.role for cell in cells if cell.text.startswith("M")] == ["merged"] * 4
