"""What the tour claims, from files in which it holds and files in which it does not."""

import numpy as np
import pytest

from gradscope.cli.selfcheck.compare import compare


def _write(path, gradient, loss, seconds=0.1):
    np.savez(path, gradient=gradient, loss=loss, seconds=np.full(len(loss), seconds))
    return path


@pytest.fixture
def runs(tmp_path):
    random = np.random.default_rng(0)
    gradient = random.normal(size=(10, 3, 4)).astype(np.float32)
    loss = random.normal(size=10).astype(np.float32)
    turned = gradient.copy()
    turned[6] = -turned[6]
    turned[7:] += 1
    after = loss.copy()
    after[7:] += 1
    return gradient, loss, turned, after


def test_a_comparison_holds_if_steps_are_equal_before_and_opposite_at_the_reversal(tmp_path, runs):
    gradient, loss, turned, after = runs
    control = _write(tmp_path / "a.npz", gradient, loss, 0.1)
    watched = _write(tmp_path / "b.npz", turned[:9], after[:9], 0.2)
    found = compare(control, watched, step=6)
    assert found.holds
    assert found.is_same_before
    assert found.is_exact_opposite
    assert (found.cosine_before, found.cosine_at) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert found.last_step == 8
    assert found.last_losses == (loss[8], after[8])
    assert found.median_step_s == (pytest.approx(0.1), pytest.approx(0.2))


@pytest.mark.parametrize(
    "change", ["one gradient bit", "one loss bit", "a step late", "a step early", "turned a bit"]
)
def test_a_comparison_with_any_other_difference_does_not_hold(tmp_path, runs, change):
    gradient, loss, turned, after = runs
    step = 6
    if change == "one gradient bit":
        turned[2, 0, 0] = np.nextafter(turned[2, 0, 0], np.float32(np.inf))
    elif change == "one loss bit":
        after[2] = np.nextafter(after[2], np.float32(np.inf))
    elif change == "a step late":
        turned[6] = gradient[6]
    elif change == "a step early":
        turned[5] = -gradient[5]
    else:
        turned[6, 0, 0] += 0.1
    control, watched = (
        _write(tmp_path / "a.npz", gradient, loss),
        _write(tmp_path / "b.npz", turned, after),
    )
    assert not compare(control, watched, step=step).holds
