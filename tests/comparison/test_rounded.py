"""Runs of which a recording has rounded the statistics of some steps."""

import pytest
import torch

from gradscope.comparison.text import as_json, as_lines
from gradscope.recording import open_recording

STEPS = 80


@pytest.fixture
def train_long(train, make_batches, monkeypatch):
    """Train without digests for 80 steps. is_rounded: whether the recording rounds the first of them."""

    def run(name, *, is_rounded=True, **options):
        limit = -1 if is_rounded else 2**30
        monkeypatch.setattr("gradscope.recording.recorder.EXACT_BYTES", limit)
        path = train(name, steps=STEPS, digest=False, lr=0.01, data=make_batches(STEPS), **options)
        with open_recording(path) as recording:
            assert recording.rounded_step_numbers() == (list(range(64)) if is_rounded else [])
        return path

    return run


@pytest.mark.parametrize("are_rounded", [(True, True), (True, False), (False, True)])
def test_the_same_run_twice_is_equal(train_long, compare, are_rounded):
    a, b = (train_long(name, is_rounded=each) for name, each in zip("ab", are_rounded, strict=True))
    comparison = compare(a, b)
    assert comparison.first is None
    assert (comparison.steps, comparison.rounded_steps, comparison.exact_steps) == (STEPS, 64, 0)
    assert as_json(comparison)["compared"]["rounded_steps"] == 64
    expected = "Of 64 steps a recording has statistics rounded to 0.2 %"
    assert expected in as_lines(comparison)[-1]


def change(factor):
    def multiply(model, _):
        with torch.no_grad():
            model.fc2.weight *= factor

    return {10: [multiply]}


def test_a_large_difference_is_found_where_it_begins(train_long, compare):
    comparison = compare(train_long("a"), train_long("b", is_rounded=False, before=change(1.5)))
    first = comparison.first
    assert (first.step, first.stage, first.layer, first.kind) == (
        10,
        "parameters",
        "fc2",
        "param.weight",
    )
    assert first.is_rounded
    assert first.size > 0.1
    codes = [suspect.code for suspect in comparison.suspects]
    assert codes == ["changed-outside-optimizer", "rounded"]
    assert as_json(comparison)["first_difference"]["is_rounded"]


def test_the_size_of_a_rounded_difference_is_not_taken_for_rounding_of_the_computation(
    train_long, compare
):
    comparison = compare(train_long("a"), train_long("b", before=change(1 + 2.0**-15)))
    first = comparison.first
    assert first.step >= 10
    codes = {suspect.code for suspect in comparison.suspects}
    assert codes.isdisjoint({"rounding", "precision"})
    assert ("rounded" in codes) == first.is_rounded
    if first.is_rounded:
        assert "a smaller difference may have begun" in comparison.suspects[-1].text
