"""The rows of the table, as cells."""

import itertools

import numpy as np
import pytest
from synthetic_run import KINDS, SyntheticRun, gpt_layers

from gradscope.columns import Block, Flags
from gradscope.errors import UsageError
from gradscope.protocol import InterventionState
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.layout import GUTTER, choose_columns
from gradscope_tui.view.rows import RowOrder, list_rows
from gradscope_tui.view.table import TableView, by_layer, header_cells, number_cell, row_cells

RUN = SyntheticRun(layers=gpt_layers(blocks=2), broken={3: ("blocks.1.mlp.fc1", 12)})


def frame_of(run=RUN, steps=3, change=None):
    store = RunStore(run.run)
    store.feed(run.manifest())
    for n in range(steps):
        store.feed(run.step(n, block=change(run.block(n)) if change else None))
    return store.frame()


def view_of(frame, width=120, order=None, **chosen):
    order = order or RowOrder()
    listing = list_rows(frame, order, chosen.get("folded", ()))
    return TableView(frame, listing, order, choose_columns(width), **chosen)


def text(cells):
    return "".join(cell.text for cell in cells)


def row_of(view, name):
    node = view.frame.tree.find(name)
    return row_cells(view, view.listing.nodes.index(node))


def flagged(name, kind, flag):
    def change(block):
        flags = block.flags.copy()
        node = [layer.name for layer in RUN.layers].index(name)
        flags[(block.layer == node) & (block.kind == KINDS.index(kind))] = flag
        return Block(block.kinds, block.layer, block.kind, flags, block.values)

    return change


@pytest.mark.parametrize("width", range(40, 200))
def test_every_row_fills_its_width_exactly(width):
    view = view_of(frame_of(), width)
    assert len(text(header_cells(view))) == width
    for row in range(len(view.listing.nodes)):
        assert len(text(row_cells(view, row))) == width - 1  # the cursor's cell is the widget's


def test_columns_are_left_out_in_order_as_the_window_narrows():
    seen = [tuple(c.name for c, _ in choose_columns(width).columns) for width in range(200, 39, -1)]
    assert all(set(narrow) <= set(wide) for wide, narrow in itertools.pairwise(seen))
    assert set(seen[200 - 80]) == {
        "name",
        "out_std",
        "grad_norm",
        "update_ratio",
        "trend",
        "intervention",
    }
    assert set(seen[-1]) == {"name", "grad_norm"}
    assert set(seen[200 - 120]) >= {
        "name",
        "type",
        "out_std",
        "grad_norm",
        "update_ratio",
        "trend",
        "intervention",
    }


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_a_layout_fills_the_window(width):
    assert GUTTER + sum(w for _, w in choose_columns(width).columns) == width


def test_nan_is_written_in_words_and_highlighted():
    number, _ = number_cell(frame_of(steps=4), "grad_norm", frame_of().tree.find("blocks.1.mlp.fc1"))
    assert number.text.strip() == "NaN 12"
    assert number.role == "bad"


@pytest.mark.parametrize(
    ("flag", "sign", "role"),
    [
        (Flags.EXACT, " ", "normal"),
        (Flags.SAMPLED, "~", "sampled"),
        (Flags.SCALED, "×", "sampled"),  # noqa: RUF001
        (Flags.MERGED, "Σ", "merged"),
    ],
)
def test_a_sign_without_colour_shows_how_a_number_was_measured(flag, sign, role):
    frame = frame_of(change=flagged("head", "grad", flag))
    number, _ = number_cell(frame, "grad_norm", frame.tree.find("head"))
    assert (number.text[0], number.role) == (sign, role)


def test_not_measured_is_a_dot_and_not_a_number():
    frame = frame_of(change=flagged("head", "grad", Flags.NOT_MEASURED))
    number, _ = number_cell(frame, "grad_norm", frame.tree.find("head"))
    assert (number.text.strip(), number.role) == ("·", "dim")


def test_an_unusual_number_has_a_colour_and_an_arrow():
    def change(block):
        is_last = block.values["sumsq"].sum() > 0 and change.calls == 19
        change.calls += 1
        values = dict(block.values)
        if is_last:
            values["sumsq"] = values["sumsq"] * np.where(block.layer == 1, 1e8, 1.0)
        return Block(block.kinds, block.layer, block.kind, block.flags, values)

    change.calls = 0
    frame = frame_of(steps=20, change=change)
    number, arrow = number_cell(frame, "grad_norm", 1)
    assert (number.role, arrow.text) == ("above3", "▲")
    assert number_cell(frame, "grad_norm", 2)[1].text == " "


def test_the_tree_is_drawn_by_indentation_and_folding_hides_what_is_inside():
    view = view_of(frame_of())
    assert text(row_of(view, "blocks.0.mlp.fc1")).startswith("            fc1")
    folded = view_of(frame_of(), folded={"blocks.1"})
    row = text(row_of(folded, "blocks.1"))
    assert "▸ 1" in row
    assert "+9" in row
    assert folded.frame.tree.find("blocks.1.mlp") not in folded.listing.nodes
    assert folded.frame.tree.find("norm") in folded.listing.nodes


def test_a_folded_container_counts_its_nonfinite_layers():
    view = view_of(frame_of(steps=4), folded={"blocks.1"})
    assert "1 not finite" in text(row_of(view, "blocks.1"))


def test_interventions_are_shown_in_their_row_and_in_a_folded_container():
    state = InterventionState(
        "a", "clip", {"max_norm": 0.5}, ("blocks.0.mlp.fc1",), "output", "me", 412
    )
    pending = InterventionState("", "reverse", {"alpha": 1.0}, ("head",), "output", "me", None)
    view = view_of(frame_of(), interventions=by_layer([state, pending]))
    assert text(row_of(view, "blocks.0.mlp.fc1"))[1] == "◆"
    assert text(row_of(view, "blocks.0.mlp.fc1")).rstrip().endswith("clip ≤0.5")
    assert text(row_of(view, "head"))[1] == "◇"
    assert text(row_of(view, "head")).rstrip().endswith("reverse ×−1…")  # noqa: RUF001
    folded = view_of(frame_of(), interventions=by_layer([state]), folded={"blocks"})
    assert text(row_of(folded, "blocks"))[1] == "◆"


def test_marks_are_at_the_left():
    assert text(row_of(view_of(frame_of(), marked={"head"}), "head"))[0] == "●"


def listed(frame, order):
    return [frame.tree.layers[n].name for n in list_rows(frame, order, ()).nodes]


def test_a_filter_is_a_regular_expression_over_names_and_types():
    frame = frame_of()
    assert listed(frame, RowOrder(filter="fc[12]$|embedding$")) == ["tokens", "positions"]
    assert listed(frame, RowOrder(filter=r"1\.mlp\.fc")) == ["blocks.1.mlp.fc1", "blocks.1.mlp.fc2"]
    assert set(listed(frame, RowOrder(filter="!blocks"))) == {"", "tokens", "positions", "norm", "head"}


def test_an_invalid_filter_raises_with_the_reason():
    with pytest.raises(UsageError, match="invalid regular expression: missing"):
        list_rows(frame_of(), RowOrder(filter="(fc"), ())


def test_sorting_puts_nonfinite_layers_first_and_unmeasured_ones_last():
    frame = frame_of(steps=4)
    names = listed(frame, RowOrder(sort="grad_norm"))
    assert names[0] == "blocks.1.mlp.fc1"
    assert set(names[-2:]) == {"", "blocks"}
    norms = [frame.measured.values["grad_norm"][frame.tree.find(n)] for n in names[1:-2]]
    assert norms == sorted(norms, reverse=True)
    ascending = listed(frame, RowOrder(sort="grad_norm", is_ascending=True))
    assert ascending[1:-2] == names[1:-2][::-1]
