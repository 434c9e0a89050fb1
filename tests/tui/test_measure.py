"""The quantities of a step, against sums written out in plain Python."""

import math

import numpy as np
from synthetic_run import KINDS, SyntheticRun, gpt_layers

from gradscope.columns import Block, Flags, Table
from gradscope.protocol import Layer
from gradscope_tui.store.layers import build_tree
from gradscope_tui.store.measure import measure, merge_plan

LAYERS = gpt_layers(blocks=2)
TREE = build_tree(LAYERS)


def table(run, step):
    return Table(step, [layer.name for layer in LAYERS], run.block(step))


def block_of(rows):
    """A block from (layer, kind, sumsq, count) rows."""
    kinds = tuple(dict.fromkeys(kind for _, kind, _, _ in rows))
    layer = np.array([row[0] for row in rows], np.uint32)
    kind = np.array([kinds.index(row[1]) for row in rows], np.uint32)
    sumsq, count = (
        np.array([row[2] for row in rows], float),
        np.array([row[3] for row in rows], np.uint64),
    )
    zero = np.zeros(len(rows))
    values = {"count": count, "nan": zero, "posinf": zero, "neginf": zero, "sum": zero, "sumsq": sumsq}
    return Block(kinds, layer, kind, np.zeros(len(rows), np.uint8), values)


def test_the_numbers_of_a_layer_are_those_of_its_own_rows():
    run = SyntheticRun(layers=LAYERS)
    measured, rows = measure(run.block(7), TREE, 7), table(run, 7)
    node = TREE.find("blocks.1.mlp.fc1")
    fc1 = rows["blocks.1.mlp.fc1"]
    assert math.isclose(measured.values["out_std"][node], fc1["out"].std)
    assert math.isclose(measured.values["grad_norm"][node], fc1["grad"].norm)
    assert math.isclose(measured.values["param_grad_norm"][node], fc1["param_grad"].norm)
    assert math.isclose(measured.values["update_ratio"][node], fc1["update"].norm / fc1["param"].norm)
    assert measured.flags["grad_norm"][node] == Flags.EXACT


def test_parameters_of_a_container_are_merged_and_flagged():
    run = SyntheticRun(layers=LAYERS)
    measured, rows = measure(run.block(3), TREE, 3), table(run, 3)
    below = [n for n in rows if n.startswith("blocks.0.") and "param" in rows[n]]
    assert len(below) == 6

    def norm(kind):
        return math.sqrt(sum(rows[n][kind].sumsq for n in below))

    node = TREE.find("blocks.0")
    assert math.isclose(measured.values["param_grad_norm"][node], norm("param_grad"))
    assert math.isclose(measured.values["update_ratio"][node], norm("update") / norm("param"))
    assert measured.flags["update_ratio"][node] == Flags.MERGED
    assert measured.flags["grad_norm"][node] == Flags.EXACT  # its own output


def test_outputs_of_different_layers_are_never_merged():
    measured = measure(SyntheticRun(layers=LAYERS).block(3), TREE, 3)
    node = TREE.find("blocks")
    assert np.isnan(measured.values["grad_norm"][node])
    assert measured.flags["grad_norm"][node] == Flags.NOT_MEASURED


def test_a_missing_gradient_below_makes_the_whole_not_measured():
    run = SyntheticRun(layers=LAYERS)
    block = run.block(0)
    flags = block.flags.copy()
    hole = (block.layer == TREE.find("blocks.0.mlp.fc1")) & (block.kind == KINDS.index("param_grad"))
    flags[hole] = Flags.NOT_MEASURED
    measured = measure(Block(block.kinds, block.layer, block.kind, flags, block.values), TREE, 0)
    assert np.isnan(measured.values["param_grad_norm"][TREE.find("blocks.0")])
    assert not np.isnan(measured.values["param_grad_norm"][TREE.find("blocks.1")])


def test_several_outputs_are_merged_unless_there_is_a_whole_one():
    tree = build_tree([Layer("lstm", "LSTM"), Layer("fc", "Linear")])
    rows = [(0, "out.0", 9.0, 1), (0, "out.1", 16.0, 1), (1, "grad", 4.0, 1), (1, "grad.0", 100.0, 1)]
    measured = measure(block_of([*rows, (0, "grad.0", 9.0, 1), (0, "grad.1", 16.0, 1)]), tree, 0)
    assert measured.values["grad_norm"].tolist() == [5.0, 2.0]
    assert measured.flags["grad_norm"].tolist() == [Flags.MERGED, Flags.EXACT]


def test_the_row_grad_arriving_is_not_used_as_the_gradient():
    tree = build_tree([Layer("fc", "Linear")])
    measured = measure(block_of([(0, "grad_arriving", 100.0, 1), (0, "grad", 4.0, 1)]), tree, 0)
    assert measured.values["grad_norm"].tolist() == [2.0]


def test_nonfinite_elements_are_counted_at_the_layer_and_its_containers():
    run = SyntheticRun(layers=LAYERS, broken={5: ("blocks.0.mlp.fc1", 12)})
    measured = measure(run.block(5), TREE, 5)
    assert measured.nan["grad_norm"][TREE.find("blocks.0.mlp.fc1")] == 12
    assert measured.nan["grad_norm"].sum() == 12
    assert measured.inf["grad_norm"].sum() == 0


def test_rows_of_layers_that_the_tree_lacks_are_left_out():
    measured = measure(
        block_of([(0, "grad", 4.0, 1), (7, "grad", 9.0, 1)]), build_tree([Layer("fc", "L")]), 0
    )
    assert measured.values["grad_norm"].tolist() == [2.0]


def test_a_step_without_rows_measures_nothing():
    measured = measure(block_of([]), TREE, 0)
    assert all(np.isnan(values).all() for values in measured.values.values())


def test_a_plan_is_used_again_for_the_same_rows_only_and_changes_no_number():
    run = SyntheticRun(layers=LAYERS)
    plan = merge_plan(run.block(0), TREE)
    assert merge_plan(run.block(1), TREE, plan) is plan
    whole, with_plan = measure(run.block(1), TREE, 1), measure(run.block(1), TREE, 1, plan)
    for name, values in whole.values.items():
        assert np.array_equal(values, with_plan.values[name], equal_nan=True)
        assert np.array_equal(whole.flags[name], with_plan.flags[name])
    fewer = run.block(1).taken(np.arange(3, len(run.block(1))))
    assert merge_plan(fewer, TREE, plan) is not plan
    assert merge_plan(run.block(1), build_tree(LAYERS), plan) is not plan
