"""Rules by evidence: how far and how often decides; facts that other programs share are silent."""

import math

import numpy as np
import pytest

from gradscope.rules import GREATEST_RATE, LEAST_RATE, WEIGHT_DECAY, Rule, finding_of, rule_kind


def judged(name, views):
    rule = Rule(rule_kind(name))
    return [finding_of(alert) for each in views for alert in rule.judge(each)]


def chain(gradients, kind="param_grad"):
    """Rows of layers that ran in the order of the names, each with a gradient of this rms."""
    rows = [(name, "out", {}) for name in gradients]
    return rows + [
        (name, kind, {"norm": 10 * rms, "min": -rms, "max": rms}) for name, rms in gradients.items()
    ]


NAMES = tuple("abcdefgh")


def falling(view, step, factor, count=8):
    rms = {NAMES[i]: factor ** (count - 1 - i) for i in range(count)}
    return view(step, chain(rms), layers=NAMES)


def test_vanishing_needs_two_steps_if_far_and_many_if_near(view):
    (far,) = judged("vanishing", [falling(view, step, 1e-2) for step in range(20)])
    assert (far.code, far.found_step, far.since_step) == ("vanishing-gradient", 1, 0)
    assert far.layers[0] == "a"
    assert far.evidence["rms"] == pytest.approx(1e-14)
    (near,) = judged("vanishing", [falling(view, step, 0.1) for step in range(20)])
    assert 2 <= near.found_step <= 10  # 1e-7, two decades below the limit
    assert judged("vanishing", [falling(view, step, 0.2) for step in range(200)]) == []  # 1e-5


def test_a_branch_with_little_gradient_between_layers_with_much_does_not_vanish(view):
    rms = {"a": 1.0, "b": 1e-9, "c": 1e-12, "d": 0.5, "e": 1.0}
    assert judged("vanishing", [view(step, chain(rms), layers=NAMES) for step in range(50)]) == []


def test_two_parts_with_different_scales_do_not_vanish(view):
    rms = {"a": 1e-6, "b": 2e-6, "c": 3e-6, "d": 0.1, "e": 1.0}  # an actor and a critic
    assert judged("vanishing", [view(step, chain(rms), layers=NAMES) for step in range(50)]) == []


def test_a_gradient_that_is_growing_back_does_not_vanish(view):
    views = [falling(view, step, 10 ** -(1.2 - step / 20)) for step in range(12)]
    assert judged("vanishing", views) == []


def test_a_head_that_starts_at_zero_does_not_vanish(view):
    rms = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 1.0}
    assert judged("vanishing", [view(step, chain(rms), layers=NAMES) for step in range(5)]) == []


def test_exploding_along_the_depth_and_with_time(view):
    rms = {NAMES[i]: 10.0 ** (2 * (5 - i)) for i in range(6)}
    (deep,) = judged("exploding", [view(step, chain(rms, "grad"), layers=NAMES) for step in range(9)])
    assert (deep.code, deep.layers[-1]) == ("exploding-gradient", "a")
    growing = [view(step, chain({"a": 10.0**step, "b": 1.0})) for step in range(12)]
    (late,) = judged("exploding", growing)
    assert late.layers == ("a",)
    huge = [view(step, chain({"a": 1e7, "b": 2e7})) for step in range(30)]  # a sum over huge targets
    assert judged("exploding", huge) == []


def test_a_layer_of_zeros_is_dead_only_if_no_gradient_reaches_it(view):
    def step(number, norm):
        rows = [
            ("a", "out", {}),
            ("b", "out", {"min": 0.0, "max": 0.0}),
            ("a", "param_grad", {"norm": norm}),
        ]
        return view(number, [*rows, ("c", "out", {}), ("c", "param_grad", {"norm": 1.0})])

    (found,) = judged("dead", [step(i, 0.0) for i in range(20)])
    assert (found.code, found.layers, found.found_step) == ("dead-units", ("b",), 2)
    assert judged("dead", [step(i, 0.1) for i in range(100)]) == []


def test_a_saturated_output_and_gating_that_decides_later_are_no_warnings(view):
    def step(number, y, norm="b"):
        columns = {"sum": 100 * y, "sumsq": 100 * y * y}
        rows = [("a", "out", columns), ("b", "out", {}), (norm, "param_grad", {"norm": 1.0})]
        return view(number, rows, types=("Sigmoid", "Linear", ""))

    (found,) = judged("saturated", [step(i, 0.9999) for i in range(20)])
    assert (found.severity, found.layers) == ("warning", ("a",))
    (found,) = judged("saturated", [step(i, min(0.5 + i / 10, 0.9999)) for i in range(20)])
    assert found.severity == "hint"
    assert judged("saturated", [step(i, 0.9999, "a") for i in range(20)]) == []  # nothing after it


@pytest.mark.parametrize(
    ("upper", "first", "is_found"),
    [(0.5, 0.02, True), (0.9, 0.02, True), (0.97, 0.02, False), (0.5, 0.2, False)],
)
def test_a_mean_slope_of_two_percent_is_found_if_a_layer_begins_at_both_bounds(
    view, upper, first, is_found
):
    """`upper` of the sigmoid's outputs are at 1, the rest at 0, but for a part with the slope 1 (0.5)."""

    def step(number, slope):
        mean = (1 - slope) * upper + slope * 0.5
        columns = {"sum": 100 * mean, "sumsq": 100 * (mean - slope / 4)}
        rows = [("a", "out", columns), ("b", "out", {}), ("b", "param_grad", {"norm": 1.0})]
        return view(number, rows, types=("Sigmoid", "Linear", ""))

    found = judged("saturated", [step(0, first), *(step(i, 0.02) for i in range(1, 40))])
    assert bool(found) is is_found


def moving(view, step, ratio, slope=1.0):
    rows = []
    for name in ("a", "b", "c"):
        rows += [(name, "param", {"norm": 1.0}), (name, "update", {"norm": ratio})]
        rows += [(name, "param_grad", {"norm": slope})]
    return view(step, rows)


def trained(view, losses, ratio, slope=1.0):
    for step, loss in enumerate(losses):
        if step < 20:
            yield moving(view, step, ratio(step) if callable(ratio) else ratio, slope)
        yield view(step, [], scalars={"loss": loss})


def test_a_learning_rate_is_too_high_if_steps_are_large_and_overshoot(view):
    (found,) = judged("update_ratio", trained(view, [1.4, 6.0, 8.0, 5.0, 4.0] + [2.0] * 95, 0.3))
    assert found.code == "learning-rate-too-high"
    assert found.found_step <= 5
    assert found.evidence["factor"] == pytest.approx(30.0)
    (found,) = judged("update_ratio", trained(view, [1.4] * 100, 0.3))
    assert found.found_step <= 40


def test_a_learning_rate_is_too_high_if_large_steps_hold_a_loss_that_had_fallen(view):
    """Each of three layers is moved by 0.2 against a slope of 1: 0.6 of a loss of 0.7, which does not fall."""

    def found(losses, ratio):
        views = []
        for step, loss in enumerate(losses):
            if step < 20 or step % 10 == 0:
                views.append(moving(view, step, ratio))
            views.append(view(step, [], scalars={"loss": loss}))
        return judged("update_ratio", views)

    fallen = [max(1.4 * 0.97**i, 0.7) for i in range(120)]  # 0.7 from step 23 on
    (each,) = found(fallen, 0.2)
    assert (each.code, each.evidence["factor"]) == ("learning-rate-too-high", pytest.approx(20.0))
    assert 60 < each.found_step < 80
    assert each.evidence["predicted_fall_per_loss"] >= 0.5
    assert found(fallen, 0.08) == []  # updates that are not that large
    assert found([1.4 * 0.985**i for i in range(120)], 0.2) == []  # it falls by a quarter in 20 steps
    assert found([max(1.4 * 0.9**i, 0.05) for i in range(120)], 0.2) == []  # as good as zero


@pytest.mark.parametrize(
    ("losses", "ratio", "slope"),
    [
        ([1.4 * 0.97**i for i in range(100)], 0.3, 1.0),  # it falls
        ([1.4] * 100, 0.3, 0.01),  # huge targets: each step takes away 1 % of the loss
        ([1.4] * 100, 0.05, 100.0),  # a target network: the loss stays, and updates are not that large
        ([1.4] * 100, 0.01, 100.0),  # a loss that is logged as a mean and trained as a sum
        ([-1.0 + 0.1 * (i % 3) for i in range(100)], 0.3, 1.0),  # no scale
        ([1.4] * 100, lambda step: 0.001 * step, 1.0),  # warm-up
    ],
)
def test_a_learning_rate_is_not_too_high_without_both(view, losses, ratio, slope):
    assert judged("update_ratio", trained(view, losses, ratio, slope)) == []


def test_without_a_loss_only_very_large_updates_are_found(view):
    def found(ratio):
        return judged("update_ratio", [moving(view, step, ratio) for step in range(30)])

    assert found(0.1) == []
    assert [each.code for each in found(1.0)] == ["learning-rate-too-high"]


def test_a_tiny_learning_rate_is_a_hint_and_a_warm_up_is_silent(view):
    losses = [1.4] * 60
    (found,) = judged("update_ratio", trained(view, losses, 1e-5))
    assert (found.code, found.severity) == ("learning-rate-too-low", "hint")
    (found,) = judged("update_ratio", trained(view, losses, 1e-8))
    assert found.severity == "warning"
    assert judged("update_ratio", trained(view, losses, lambda step: 1e-7 * (step + 1))) == []


def test_no_update_is_reported_after_most_of_the_first_steps_unless_the_layer_has_moved(view):
    (found,) = judged("no_update", [moving(view, step, 0.0) for step in range(20)])
    assert (found.code, found.layers, found.found_step) == ("no-update", (), 14)
    warm_up = [moving(view, step, 0.0 if step < 10 else 1e-3) for step in range(20)]
    assert judged("no_update", warm_up) == []
    ended = [moving(view, step, 1e-3 if step < 10 else 0.0) for step in range(60)]
    assert judged("no_update", ended) == []
    (found,) = judged("no_update", [view(0, [], scalars={GREATEST_RATE: 0.0}), *ended])
    assert (found.severity, found.found_step) == ("hint", 24)

    def partial(step):
        rows = [("a", "param_grad", {"norm": 1.0}), ("b", "param_grad", {"norm": 1.0})]
        rows += [("a", "param", {"norm": 1.0}), ("b", "param", {"norm": 1.0})]
        return view(step, [*rows, ("a", "update", {"norm": 0.0}), ("b", "update", {"norm": 1.0})])

    (found,) = judged("no_update", [partial(step) for step in range(20)])
    assert (found.severity, found.layers) == ("warning", ("a",))
    frozen = [view(0, [], scalars={LEAST_RATE: 0.0}), *(partial(step) for step in range(20))]
    (found,) = judged("no_update", frozen)
    assert found.severity == "hint"


def test_an_update_that_is_lost_in_rounding_is_not_missing(view):
    rows = [("a", "param", {"norm": 1.0}), ("a", "update", {"norm": 0.0, "min": 0.0, "max": 0.0})]
    rows += [("a", "param_grad", {"norm": 1e-9, "min": -1e-10, "max": 1e-10})]
    assert judged("no_update", [view(step, rows) for step in range(40)]) == []


def shrinking(view, rate, ratio, decay):
    yield view(0, [], scalars={WEIGHT_DECAY: decay, GREATEST_RATE: 0.1})
    for step in range(30):
        norm = math.exp(-rate * step)
        rows = [("a", "param", {"norm": norm}), ("a", "update", {"norm": ratio * norm})]
        yield view(step, [*rows, ("a", "param_grad", {"norm": 1e-3})])


@pytest.mark.parametrize(
    ("rate", "left", "is_found"), [(0.01, 0.8, True), (0.01, 0.95, False), (1e-3, 0.8, False)]
)
def test_decay_of_a_tenth_of_the_weights_in_each_step_is_found_though_gradients_hold_them(
    view, rate, left, is_found
):
    """The weights are at `left` of their first norm and stay there."""
    scalars = {"optimizer_weight_decay": 10.0, "optimizer_lr": rate, "optimizer_lr_least": rate}
    views = []
    for step in range(15):
        rows = [("a", "param", {"norm": left if step else 1.0}), ("a", "param_grad", {"norm": 100.0})]
        views.append(view(step, [*rows, ("a", "update", {"norm": 0.15})]))
        views.append(view(step, [], scalars=scalars))
    found = judged("weight_decay", views)
    assert [each.code for each in found] == ["weight-decay-too-strong"] * is_found
    if found:
        assert found[0].evidence["decay_per_step"] == pytest.approx(0.1)


def test_weights_that_shrink_by_decay_are_found(view):
    (found,) = judged("weight_decay", shrinking(view, 0.02, 0.02, 0.2))
    assert (found.code, found.layers) == ("weight-decay-too-strong", ("a",))
    assert found.evidence["shrinks_per_step"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("rate", "ratio", "decay"), [(1e-4, 1e-4, 0.1), (0.02, 0.1, 0.2), (0.02, 0.02, 0.0)]
)
def test_usual_decay_other_updates_and_no_decay_are_silent(view, rate, ratio, decay):
    assert judged("weight_decay", shrinking(view, rate, ratio, decay)) == []


def clipped(view, factors):
    for step, factor in enumerate(factors):
        rows = [("a", "param_grad", {"norm": 1.0}), ("a", "param_grad_before_clip", {"norm": factor})]
        yield view(step, rows)


def test_clipping_is_always_if_it_acts_in_each_of_fifteen_steps(view):
    (found,) = judged("clipping", clipped(view, [200.0] * 20))
    assert (found.code, found.severity, found.found_step) == ("clipping-always", "warning", 14)
    (found,) = judged("clipping", clipped(view, [20.0] * 20))
    assert found.severity == "hint"
    assert judged("clipping", clipped(view, [5.0] * 50)) == []
    assert judged("clipping", clipped(view, ([200.0] * 10 + [1.0]) * 5)) == []


def losses_of(view, values, name="loss"):
    return [view(step, [], scalars={name: value}) for step, value in enumerate(values)]


def test_a_spike_of_a_loss_that_is_still_falling_is_found_at_once(view):
    rng = np.random.default_rng(0)
    values = 5.0 * 0.95 ** np.arange(60) * rng.lognormal(0, 0.15, 60)
    assert judged("loss_spike", losses_of(view, values)) == []
    values[45] *= 10
    (found,) = judged("loss_spike", losses_of(view, values))
    assert (found.code, found.found_step) == ("loss-spike", 45)


def test_a_spike_names_the_layers_whose_gradient_rose_most(view):
    views = []
    for step in range(30):
        b = 500.0 if step == 25 else 1.0
        views += [view(step, chain({"a": 1.0, "b": b})), view(step, [], scalars={"loss": b})]
    (found,) = judged("loss_spike", views)
    assert (found.found_step, found.layers[0]) == (25, "b")


@pytest.mark.parametrize("level", [0.0, -5.0])
def test_noisy_losses_of_either_sign_do_not_spike_and_one_far_outside_does(view, level):
    values = level + np.random.default_rng(1).normal(0, 1, 500)
    assert judged("loss_spike", losses_of(view, values)) == []
    values[400] = 100.0
    (found,) = judged("loss_spike", losses_of(view, values))
    assert found.found_step == 400


def test_a_loss_that_stays_is_a_hint_and_others_are_silent(view):
    rng = np.random.default_rng(2)
    (found,) = judged("loss_not_falling", losses_of(view, 2.3 * rng.lognormal(0, 0.05, 400)))
    assert (found.code, found.severity, found.found_step) == ("loss-not-falling", "hint", 99)
    falling = 2.3 * 0.997 ** np.arange(400) * rng.lognormal(0, 0.05, 400)
    assert judged("loss_not_falling", losses_of(view, falling)) == []
    assert judged("loss_not_falling", losses_of(view, rng.normal(0, 1, 400))) == []
    assert judged("loss_not_falling", losses_of(view, 2.3 * rng.lognormal(0, 2.0, 400))) == []
    assert judged("loss_not_falling", losses_of(view, [2.3] * 400, "val_loss")) == []


def test_an_infinite_output_of_a_layer_with_finite_weights_is_an_overflow(view):
    rows = [("a", "out", {}), ("a", "param", {}), ("b", "out", {"posinf": 3}), ("b", "param", {})]
    (found,) = judged("overflow", [view(0, rows)])
    assert (found.code, found.layers) == ("overflow", ("b",))
    mask = [("a", "out", {"neginf": 3}), ("b", "out", {"posinf": 3}), ("b", "param", {})]
    assert judged("overflow", [view(0, mask)]) == []  # a mask comes first
    assert (
        judged("overflow", [view(0, [("b", "out", {"posinf": 3}), ("b", "param", {"nan": 1})])]) == []
    )


def test_a_gradient_of_subnormals_is_an_underflow(view):
    def step(number, few):
        return view(number, [("a", "grad", {"subnormal": few, "zero": 40})], is_full=True)

    (found,) = judged("underflow", [step(i, 50) for i in range(9)])
    assert (found.code, found.layers, found.found_step) == ("underflow", ("a",), 4)
    assert judged("underflow", [step(i, 10) for i in range(9)]) == []
