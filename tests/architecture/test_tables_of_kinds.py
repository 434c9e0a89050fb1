"""Every table that is keyed by the kind of a row has an entry for each kind that gradscope records."""

import ast
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gradscope
import gradscope_tui
from gradscope.agent.observation.loss_scale import LossScaleCorrection
from gradscope.columns import BASIC_KINDS, COLUMNS, KINDS, Block, Flags, basic_kind
from gradscope.protocol import Layer
from gradscope.rules import StepView, default_rules, parse_condition
from gradscope_tui.store.layers import build_tree
from gradscope_tui.store.measure import measure
from gradscope_tui.view.detail import kind_in_words, stats_lines

_ROOMS = (gradscope, gradscope_tui)
_OTHERS = {"BASIC_KINDS"}
"""The list of kinds itself."""


def modules():
    for room in _ROOMS:
        for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if "__main__" not in each.name and "kernels" not in each.name:
                yield each.name


def tables():
    """Yield the name and the keys of each dictionary at module level with at least two kinds among its keys."""
    for name in modules():
        path = Path(importlib.util.find_spec(name).origin)
        source = path.read_text(encoding="utf-8") if path.suffix == ".py" else ""
        if source.count('"grad') + source.count('"param') < 2:
            continue
        for node in ast.parse(source).body:
            value = getattr(node, "value", None)
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Dict):
                keys = {key.value for key in value.keys if isinstance(key, ast.Constant)}
                if len(keys & set(BASIC_KINDS)) >= 2:
                    yield (
                        f"{name}.{ast.unparse(getattr(node, 'target', None) or node.targets[0])}",
                        keys,
                    )


def block_of(*kinds, **values):
    """Return a block with one row of layer 0 for each kind; other columns: two elements."""
    count = len(kinds)
    values = {"count": 2, "nan": 0, "posinf": 0, "neginf": 0} | values
    columns = {
        c.name: np.full(count, values.get(c.name, 1), np.uint64 if c.is_count else np.float64)
        for c in COLUMNS
    }
    index = np.arange(count, dtype=np.uint32)
    return Block(kinds, np.zeros(count, np.uint32), index, np.zeros(count, np.uint8), columns)


def test_every_dictionary_keyed_by_kind_has_all_kinds():
    found = dict(tables())
    assert {"gradscope.rules.checks.finite._ORIGINS", "gradscope_tui.view.detail._NAMES"} <= set(found)
    for name, keys in found.items():
        if name.rpartition(".")[2] not in _OTHERS:
            assert set(KINDS) <= keys, f"{name} lacks {set(KINDS) - keys}"


def recorded_kinds():
    """Return each kind that the source of the observers names, and the kinds of one training."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        scope.reverse("0")
        scope.reverse("1", site="params")
        x = torch.ones(4, 3, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (model(x).sum() + gradient.square().sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        table = scope.latest()
        return {kind for layer in table for kind in table[layer]}


def test_a_training_with_all_features_records_exactly_the_known_kinds():
    assert {kind.partition(".")[0] for kind in recorded_kinds()} == set(BASIC_KINDS)


@pytest.mark.parametrize("suffix", ["", ".0", ".weight"])
@pytest.mark.parametrize("kind", BASIC_KINDS)
def test_every_rule_condition_and_view_takes_a_row_of_each_kind(kind, suffix):
    row = kind + suffix
    assert basic_kind(row) in KINDS
    view = StepView(0, ("a",), block_of(row, nan=1))
    for rule in default_rules():
        rule.judge(view)
    (alert,) = next(rule for rule in default_rules() if rule.name == "nonfinite").judge(view)
    assert alert.finding.kind == row
    assert "a" in alert.text
    parse_condition("any.nan").evaluate(view)
    assert kind_in_words(row) != row
    assert len(stats_lines(view.block, 0, 200)) == 2
    measure(view.block, build_tree((Layer("a", "Linear"),)), 0)


@pytest.mark.parametrize("kind", BASIC_KINDS)
def test_the_loss_scale_is_divided_out_of_gradients_only(kind):
    scale = torch.tensor(8.0)
    is_gradient = kind.startswith("grad")
    corrected = LossScaleCorrection(("grad",), scale).apply(block_of(kind, sum=16.0))
    assert corrected.values["sum"][0] == (2.0 if is_gradient else 16.0)
    flagged = LossScaleCorrection(("grad",)).apply(block_of(kind))
    assert bool(flagged.flags[0] & Flags.SCALED) == is_gradient
