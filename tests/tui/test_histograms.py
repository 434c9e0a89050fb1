"""The stored histograms, against shares computed from the blocks directly."""

import dataclasses

import numpy as np
import pytest
from synthetic_run import KINDS, SyntheticRun

from gradscope.columns import Block, Flags
from gradscope_tui.store.histograms import HistogramRing
from gradscope_tui.store.run import RunStore

RUN = SyntheticRun(is_full=True, unmeasured=frozenset({"head"}))
BLOCKS = {step: RUN.block(step) for step in range(12)}


def expected(block, row):
    bins = block.histogram[row].astype(float)
    return (bins[:64] + bins[64:]) / block.values["count"][row]


def filled(steps=BLOCKS, **how):
    ring = HistogramRing(**how)
    for step in steps:
        ring.insert(step, BLOCKS[step])
    return ring


def test_the_shares_of_a_row_over_the_steps_are_those_of_the_blocks():
    ring = filled()
    for row in (0, 7, 60):
        block = BLOCKS[0]
        layer, kind = int(block.layer[row]), KINDS[block.kind[row]]
        shares = ring.shares(layer, kind, 5, 9)
        assert shares.steps.tolist() == [5, 6, 7, 8, 9]
        for i, step in enumerate(range(5, 10)):
            np.testing.assert_allclose(shares.binades[i], expected(BLOCKS[step], row), rtol=1e-3)
        assert not shares.zero.any()
        assert not shares.nonfinite.any()


def test_zeros_and_nonfinite_elements_are_shares_of_all_elements():
    one = np.ones(1, np.uint32)
    values = {name: one * n for name, n in (("count", 10), ("nan", 1), ("posinf", 2), ("neginf", 0))}
    bins = np.zeros((1, 128), np.uint64)
    bins[0, [40, 64 + 40, 60]] = 1, 2, 1
    block = Block(("out",), one * 0, one * 0, np.zeros(1, np.uint8), values | {"zero": one * 3}, bins)
    ring = HistogramRing()
    ring.insert(0, block)
    shares = ring.shares(0, "out", 10, 0)
    assert shares.zero[0] == pytest.approx(0.3, rel=1e-3)
    assert shares.nonfinite[0] == pytest.approx(0.3, rel=1e-3)
    assert np.flatnonzero(shares.binades[0]).tolist() == [40, 60]
    assert shares.binades[0, 40] == pytest.approx(0.3, rel=1e-3)


def test_a_share_of_one_in_a_billion_is_not_rounded_to_zero():
    one = np.ones(1, np.uint32)
    bins = np.zeros((1, 128), np.uint64)
    bins[0, [30, 40]] = 1, 10**9
    values = {"count": np.array([10**9 + 1], np.uint64)}
    ring = HistogramRing()
    ring.insert(0, Block(("out",), one * 0, one * 0, np.zeros(1, np.uint8), values, bins))
    assert 0 < ring.shares(0, "out", 10, 0).binades[0, 30] < 1e-6


def test_a_step_that_was_not_measured_is_not_zero():
    ring = filled()
    head = [layer.name for layer in RUN.layers].index("head")
    assert BLOCKS[0].flags[(BLOCKS[0].layer == head) & (BLOCKS[0].kind == 1)] == Flags.NOT_MEASURED
    for layer, kind in ((head, "grad"), (0, "out"), (head, "no such kind")):
        shares = ring.shares(layer, kind, 5, 9)
        assert len(shares.steps) == 5
        assert np.isnan(shares.binades).all()
        assert np.isnan(shares.zero).all()
    assert np.isfinite(ring.shares(head, "out", 5, 9).binades).all()


def test_late_steps_are_inserted_in_order():
    ring = filled([5, 6, 7, 0, 2, 1])
    assert ring.shares(1, "out", 10, 20).steps.tolist() == [0, 1, 2, 5, 6, 7]
    assert ring.shares(1, "out", 2, 6).steps.tolist() == [5, 6]


def test_the_oldest_steps_are_removed_above_the_memory_limit():
    one = filled([0])._size_bytes
    ring = filled(limit_bytes=4 * one + one // 2)
    assert ring.shares(1, "out", 20, 20).steps.tolist() == [8, 9, 10, 11]
    assert ring._size_bytes <= 4.5 * one
    assert len(filled([0, 1], limit_bytes=1)) == 1, "the newest step is kept whatever it takes"


def test_a_row_takes_less_than_a_tenth_of_its_histogram():
    assert filled([0])._size_bytes / len(BLOCKS[0]) < 102


def test_the_newest_step_decides_whether_histograms_are_measured():
    ring = HistogramRing()
    assert not ring.is_measured
    ring.insert(4, BLOCKS[4])
    ring.insert(2, dataclasses.replace(BLOCKS[2], histogram=None))
    assert ring.is_measured
    ring.insert(5, dataclasses.replace(BLOCKS[5], histogram=None))
    assert not ring.is_measured
    assert ring.shares(1, "out", 20, 20).steps.tolist() == [4]


def test_the_store_keeps_histograms_once_and_clears_them_with_the_layers():
    store = RunStore(RUN.run)
    store.feed(RUN.manifest())
    for step in (0, 1, 1, 2):
        store.feed(RUN.step(step))
    assert store.histograms.shares(1, "out", 20, 20).steps.tolist() == [0, 1, 2]
    for layers in (RUN.layers, RUN.layers[:-1]):
        again = dataclasses.replace(RUN, layers=layers)
        store.feed(again.manifest(revision=2))
        assert len(store.histograms) == (3 if layers is RUN.layers else 0)


def test_a_restarted_run_has_new_histograms():
    store = RunStore(RUN.run)
    store.feed(RUN.manifest())
    for step in range(3):
        store.feed(RUN.step(step))
    store.feed(RUN.step(0, time_s=RUN.start_s + 1_000))
    assert store.histograms.shares(1, "out", 20, 20).steps.tolist() == [0]
