"""The tree of layers."""

from synthetic_run import gpt_layers

from gradscope.protocol import Layer
from gradscope_tui.store.layers import build_tree


def names(tree, nodes):
    return [tree.layers[node].name for node in nodes]


def test_the_tree_reads_as_the_model_was_written():
    tree = build_tree(gpt_layers(blocks=2))
    assert names(tree, tree.order) == [layer.name for layer in tree.layers]
    block = tree.find("blocks.1")
    assert names(tree, tree.below(block))[:3] == [
        "blocks.1.norm1",
        "blocks.1.attention",
        "blocks.1.attention.qkv",
    ]
    assert [tree.depth[tree.find(n)] for n in ("", "blocks", "blocks.1", "blocks.1.mlp.fc1")] == [
        0,
        1,
        2,
        4,
    ]
    assert tree.label[tree.find("blocks.1.mlp.fc1")] == "fc1"
    assert tree.label[tree.find("")] == "(GPT)"


def test_a_parent_that_is_not_listed_is_skipped():
    tree = build_tree([Layer("a", "A"), Layer("a.b.c", "C"), Layer("d.e", "E")])
    assert tree.parent == (-1, 0, -1)
    assert tree.label == ("a", "b.c", "d.e")


def test_a_child_listed_before_its_parent_is_below_it():
    tree = build_tree([Layer("a.b", "B"), Layer("c", "C"), Layer("a", "A")])
    assert names(tree, tree.order) == ["c", "a", "a.b"]


def test_a_model_without_layers_is_a_tree_without_nodes():
    tree = build_tree(())
    assert len(tree) == 0
    assert tree.order == ()


def test_a_very_deep_model_does_not_recurse():
    layers = [Layer(".".join("x" * n), "X") for n in range(1, 1500)]
    assert max(build_tree(layers).depth) == 1498
