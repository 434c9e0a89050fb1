"""Each rule finds its fault at the threshold and nothing else; patience; reporting once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.errors import UsageError
from gradscope.rules import RULES, Rule, default_rules, replay_rules, rule_kind
from gradscope.rules.thresholds import weight_of
from gradscope.rules.trend import ScalarTrend, Trend


def judged(name, views, **how):
    rule = Rule(rule_kind(name), **how)
    return [alert for each in views for alert in rule.judge(each)]


def test_exploding_is_above_its_threshold_and_not_at_it(view, grads):
    views = [view(step, grads(a=1e4, b=1.0001e4)) for step in range(3)]
    (alert,) = judged("exploding", views, threshold=1e4)
    assert (alert.finding.layer, alert.step, alert.first_step) == ("b", 2, 0)
    assert alert.text == "b: gradient norm 1e+04, over 10000, since step 0"


def test_vanishing_compares_with_the_largest_gradient_of_all_layers(view, grads):
    views = [view(step, grads(a=1.0, b=0.99e-6, c=1.01e-6)) for step in range(10)]
    (alert,) = judged("vanishing", views, threshold=1e-6)
    assert (alert.finding.layer, alert.step) == ("b", 9)


def test_gradients_that_are_all_zero_do_not_vanish(view, grads):
    views = [view(step, grads(a=0.0, b=0.0)) for step in range(30)]
    assert judged("vanishing", views, threshold=1e-6) == judged("vanishing", views) == []


def test_a_spike_is_ten_times_its_recent_level_and_is_reported_once(view, grads):
    views = [view(step, grads(a=1.0, b=4.0)) for step in range(25)]
    views += [view(25, grads(a=11.0, b=4.0)), view(26, grads(a=11.0, b=4.0))]
    (alert,) = judged("spike", views)
    assert (alert.finding.layer, alert.step) == ("a", 25)
    assert alert.finding.value == pytest.approx(11.0)
    assert alert.finding.limit == pytest.approx(10.0)
    assert type(alert.finding.value) is type(alert.finding.limit) is float  # or it cannot be sent


@pytest.mark.parametrize(("rest", "is_found"), [(9.0, True), (30.0, False)])
def test_a_layer_spikes_only_if_the_gradient_of_all_layers_rises(view, grads, rest, is_found):
    """With 30 in the second layer the norm of both rises from 30.0 to 42.4 only, less than twofold."""
    usual = [view(step, grads(a=1.0, b=rest)) for step in range(25)]
    assert bool(judged("spike", [*usual, view(25, grads(a=30.0, b=rest))])) is is_found


def test_a_spike_of_networks_that_are_updated_in_turn_is_a_hint(view, grads):
    def step(number, norm, updated):
        return view(number, [*grads(a=norm, b=norm), (updated, "update", {"norm": 0.1})])

    in_turn = [step(number, 1.0, "ab"[number % 2]) for number in range(40)]
    together = [step(number, 1.0, "a") for number in range(40)]
    severities = [
        judged("spike", [*usual, step(40, 50.0, "a")])[0].finding.severity
        for usual in (in_turn, together)
    ]
    assert severities == ["hint", None]


def test_a_layer_that_is_always_noisy_does_not_spike(view, grads):
    noise = np.random.default_rng(0).lognormal(0, 1.5, 500)
    assert judged("spike", [view(i, grads(a=value)) for i, value in enumerate(noise)]) == []


@pytest.mark.parametrize(("after", "is_found"), [(1, True), (100, False)])
def test_a_rise_is_a_spike_unless_a_long_gap_was_before_it(view, grads, after, is_found):
    """The noise is 0.5 in the logarithm: a random walk of 100 such steps has a deviation of 5, and log(200) is 5.3."""
    noise = np.exp(np.random.default_rng(0).normal(0, 0.5, 30))
    views = [view(i, grads(a=value)) for i, value in enumerate(noise)]
    views.append(view(29 + after, grads(a=200.0)))
    assert bool(judged("spike", views)) is is_found


def test_a_value_spikes_only_if_it_is_far_above_the_record_too(view, grads):
    """Every 40th value is 1.9 times the others: their deviation is small, and log(1.9) is the record."""
    values = [1.9 if i % 40 == 39 else 1.0 + 0.01 * (i % 2) for i in range(100)]

    def is_found(last):
        return bool(
            judged("spike", [view(i, grads(a=v)) for i, v in enumerate([*values, last])], threshold=2.0)
        )

    assert not is_found(1.9**1.3)
    assert is_found(1.9**1.6)


def test_a_gradient_that_grows_inside_a_recurrent_layer_is_found_and_clipped_ones_are_too(view):
    """Of 8 sequences of 10 elements and 5 units; without growth the bias gets at most (4 x 80)^1.5 = 5724 times g."""

    def step(number, growth, kind="param_grad"):
        rows = [("a", "out.0", {"count": 400}), ("a", "grad.0", {"norm": 0.1})]
        rows += [
            ("a", kind, {"norm": 1.0}),
            ("a", f"{kind}.bias_hh_l0", {"norm": 572.4 * growth, "count": 5}),
        ]
        return view(
            number,
            rows + ([] if kind == "param_grad" else [("a", "param_grad.bias_hh_l0", {"count": 5})]),
        )

    assert judged("exploding", [step(i, 0.9) for i in range(40)]) == []
    for kind in ("param_grad", "param_grad_before_clip"):
        (alert,) = judged("exploding", [step(i, 1e4, kind) for i in range(10)])
        assert (alert.finding.layers, alert.step) == (("a",), 1)


def test_a_spike_is_found_if_every_tenth_step_is_observed(view, grads):
    noise = np.exp(np.random.default_rng(0).normal(0, 0.3, 30))
    views = [view(10 * i, grads(a=value)) for i, value in enumerate(noise)]
    (alert,) = judged("spike", [*views, view(300, grads(a=100.0))])
    assert alert.step == 300


def test_a_spike_needs_ten_earlier_values(view, grads):
    views = [view(step, grads(a=1.0)) for step in range(9)] + [view(9, grads(a=1e6))]
    assert judged("spike", views) == []


def test_another_model_resets_the_trend(view, grads):
    views = [view(step, grads(a=1.0)) for step in range(30)]
    views += [view(30, grads(a=1e6), layers=("b", "a"))]
    assert judged("spike", views) == []


def test_dead_counts_zeros_at_full_detail_and_finds_only_all_zero_at_core(view):
    rows = [("a", "out", {"zero": 100}), ("b", "out", {"zero": 99}), ("c", "out", {"zero": 0})]
    full = [view(step, rows, is_full=True) for step in range(20)]
    assert [alert.finding.layer for alert in judged("dead", full)] == ["a"]
    rows = [("a", "out", {"min": 0.0, "max": 0.0}), ("b", "out", {"min": 0.0, "max": 1e-9})]
    core = [view(step, rows) for step in range(20)]
    (alert,) = judged("dead", core)
    assert (alert.finding.layer, alert.finding.value) == ("a", 1.0)


@pytest.mark.parametrize(
    ("kind", "function", "slope"),
    [
        ("Tanh", np.tanh, lambda y: 1 - y**2),
        ("Sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda y: 4 * y * (1 - y)),
    ],
)
@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0, 100.0, 1000.0])
def test_saturation_is_the_mean_slope_by_an_independent_formula(view, kind, function, slope, gain):
    with np.errstate(over="ignore"):
        y = function(gain * np.linspace(-3, 3, 1000))
    columns = {"count": 1000, "sum": y.sum(), "sumsq": (y**2).sum(), "min": y.min(), "max": y.max()}
    rows = [("a", "out", columns), ("b", "out", columns)]
    views = [view(step, rows, types=(kind, "Linear", "")) for step in range(200)]
    alerts = judged("saturated", views)
    expected = slope(y).mean()
    limit = 0.025  # for a layer that begins at both bounds
    assert [alert.finding.layer for alert in alerts] == (["a"] if expected < limit else [])
    if alerts:
        assert alerts[0].finding.value == pytest.approx(expected, abs=1e-9)


def moving(**ratios):
    rows = [(layer, "param", {"norm": 1.0}) for layer in ratios]
    return [*rows, *((layer, "update", {"norm": ratio}) for layer, ratio in ratios.items())]


@pytest.mark.parametrize(
    ("ratios", "layers"),
    [
        ({"a": 1e-3, "b": 1e-3, "c": 1e-3}, []),
        ({"a": 2e-2, "b": 2e-2, "c": 1e-3}, [""]),  # the median, over the greatest
        ({"a": 5e-5, "b": 5e-5, "c": 1e-3}, [""]),
        ({"a": 0.2, "b": 1e-3, "c": 1e-3}, ["a"]),
        ({"a": 9e-6, "b": 1e-3, "c": 1e-3}, ["a"]),
        ({"a": 2e-5, "b": 1e-3, "c": 1e-3}, []),
        ({"a": 0.0, "b": 1e-3, "c": 1e-3}, []),  # frozen is not slow
    ],
)
def test_update_ratio_judges_the_median_and_layers_that_are_far_from_it(view, ratios, layers):
    views = [view(step, moving(**ratios)) for step in range(50)]
    found = judged("update_ratio", views, threshold=(1e-4, 1e-2))
    assert [alert.finding.layer for alert in found] == layers


def test_an_update_reduced_by_a_schedule_is_not_a_finding(view):
    rates = np.geomspace(1e-3, 1e-7, 500)
    views = [view(i, moving(a=r, b=r, c=r)) for i, r in enumerate(rates)]
    assert judged("update_ratio", views) == []


def test_a_loss_spike_and_a_nonfinite_loss_are_reported(view):
    def scalars(step, loss):
        return view(step, [], scalars={"loss": loss, "lr": 1e-3})

    usual = [scalars(step, 2.0 + 0.1 * math.sin(step)) for step in range(60)]
    assert judged("loss_spike", usual) == []
    (alert,) = judged("loss_spike", [*usual, scalars(60, 6.0)])
    assert (alert.step, alert.finding.layer, alert.finding.kind) == (60, "", "loss")
    (alert,) = judged("loss_spike", [*usual, scalars(60, float("nan"))])
    assert alert.text == "loss is nan"


def test_a_loss_near_zero_may_jump(view):
    losses = [2.0] * 30 + [1e-4] * 60 + [5e-3]
    views = [view(i, [], scalars={"loss": loss}) for i, loss in enumerate(losses)]
    assert judged("loss_spike", views) == []


def bad(**counts):
    return {"nan": counts.get("nan", 0), "posinf": counts.get("inf", 0)}


@pytest.mark.parametrize(
    ("rows", "layer", "kind"),
    [
        # forward: b is first, whatever follows
        ([("a", "out", {}), ("b", "out", bad(nan=2)), ("b", "grad", bad(nan=9)),
          ("c", "out", bad(nan=1))], "b", "out"),
        # backward: the gradient that arrives at b's output comes before a's
        ([("a", "out", {}), ("a", "grad", bad(nan=1)), ("b", "out", {}), ("b", "grad", bad(inf=1)),
          ("c", "out", {}), ("c", "grad", {})], "b", "grad"),
        # a layer's own parameters come after the gradient at its output, before what ran earlier
        ([("a", "out", {}), ("a", "grad", bad(nan=1)), ("b", "out", {}), ("b", "grad", {}),
          ("b", "param_grad", bad(nan=1))], "b", "param_grad"),
        ([("a", "out", bad(nan=1)), ("b", "param", bad(nan=1))], "b", "param"),
        ([("a", "out", {}), ("a", "update", bad(inf=1))], "a", "update"),
        # an infinity in an output is the origin if something follows
        ([("a", "out", bad(inf=4)), ("b", "out", bad(nan=1))], "a", "out"),
    ],
)  # fmt: skip
def test_nonfinite_names_the_first_tensor_in_the_order_of_execution(view, rows, layer, kind):
    (alert,) = judged("nonfinite", [view(7, rows)])
    assert (alert.finding.layer, alert.finding.kind, alert.step) == (layer, kind, 7)


@pytest.mark.parametrize(
    ("kind", "origin"),
    [
        ("out", "in the output of b"),
        ("out.1", "in the output of b"),
        ("grad", "in the gradient at the output of b"),
        ("grad.1", "in the gradient at the output of b"),
        ("grad_arriving", "in the gradient at the output of b"),
        ("param", "in the parameters of b"),
        ("param_grad", "in the parameter gradients of b"),
        ("param_grad_arriving", "in the parameter gradients of b"),
        ("param_grad_before_clip", "in the parameter gradients of b"),
        ("update", "in the optimizer's update of b"),
    ],
)
def test_nonfinite_describes_rows_of_every_kind(view, kind, origin):
    (alert,) = judged("nonfinite", [view(7, [("b", kind, bad(nan=1))])])
    assert (alert.finding.layer, alert.finding.kind) == ("b", kind)
    assert origin in alert.text


def test_an_infinity_in_an_output_alone_is_not_a_finding(view):
    assert judged("nonfinite", [view(7, [("a", "out", bad(inf=4)), ("a", "grad", {})])]) == []


def test_patience_counts_consecutive_steps_and_absence_allows_a_new_report(view, grads):
    def at(step, is_bad):
        return view(step, grads(a=2.0 if is_bad else 0.5))

    pattern = [True, True, False, True, True, True] + [False] * 9 + [True] * 4
    told = judged("exploding", [at(i, b) for i, b in enumerate(pattern)], threshold=1.0, patience=3)
    assert [(alert.first_step, alert.step) for alert in told] == [(3, 5)]
    pattern = [True] * 3 + [False] * 10 + [True] * 3
    told = judged("exploding", [at(i, b) for i, b in enumerate(pattern)], threshold=1.0, patience=3)
    assert [(alert.first_step, alert.step) for alert in told] == [(0, 2), (13, 15)]


def test_a_rule_for_some_layers_judges_no_others(view, grads):
    alerts = judged(
        "exploding", [view(0, grads(a=2.0, b=2.0))], threshold=1.0, patience=1, layers=["b"]
    )
    assert [alert.finding.layer for alert in alerts] == ["b"]


def test_missing_data_gives_no_findings(view):
    views = [view(step, []) for step in range(60)]
    assert list(replay_rules(views)) == []


def test_every_rule_has_a_meaning_and_rejects_a_threshold_of_the_wrong_type():
    for kind in RULES.values():
        assert kind.meaning
        wrong = 1.0 if isinstance(kind.threshold, tuple) else (0.1, 0.2)
        with pytest.raises(UsageError, match=f"the threshold of {kind.name}"):
            Rule(kind, threshold=wrong)
    assert [rule.name for rule in default_rules()] == list(RULES)


@pytest.mark.parametrize("passes", [1, 4])
def test_a_loss_of_several_passes_over_each_batch_spikes_only_far_outside_the_noise_of_batches(
    view, passes
):
    noise = np.exp(np.random.default_rng(0).normal(0, 0.3, 100)).repeat(passes)

    def alerts(values):
        return judged("loss_spike", [view(i, [], scalars={"loss": v}) for i, v in enumerate(values)])

    assert alerts(noise) == []
    assert [each.step for each in alerts([*noise, 20.0])] == [100 * passes]


@given(st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=40))
def test_the_trend_is_a_level_and_a_noise_of_differences_of_logarithms(values):
    arrays, numbers = Trend(), ScalarTrend()
    for step, value in enumerate(values):
        arrays.excess(("a",), np.array([value]), 1e300, step)
        numbers.excess(value, 1e300)
    logs = np.log(values)
    level = 0.0
    for count, log in enumerate(logs, 1):
        level += (log - level) / min(count, 8)
    variance = (np.diff(logs) ** 2 / 2).mean()
    assert (arrays._level[0], arrays._variance[0]) == pytest.approx((level, variance), abs=1e-9)
    assert (numbers._level, numbers._variance) == pytest.approx((level, variance), abs=1e-9)


def test_evidence_grows_with_the_square_of_the_distance_and_one_step_is_never_enough():
    weights = [weight_of(decades, 1.0) for decades in (-1.0, 0.0, 0.5, 1.0, 2.0, 4.5, 100.0)]
    assert weights[:2] == [0.0, 0.0]
    assert weights[3] == pytest.approx(0.5 / math.log(1e4))
    assert weights[4] == pytest.approx(4 * weights[3])
    assert weights[3] == pytest.approx(4 * weights[2])
    assert weights[5:] == [0.5, 0.5]


def test_a_layer_that_is_not_updated_in_a_step_is_not_judged_for_a_spike(view):
    """In a GAN, the discriminator has two gradients by turns, and is updated with one of them."""

    def step(number, norm, *, is_updated):
        update = 0.01 if is_updated else 0.0
        rows = [("a", "param_grad", {"norm": norm}), ("a", "update", {"norm": update})]
        return view(number, [*rows, ("b", "update", {"norm": 0.01})])

    usual = [step(i, 1.0, is_updated=True) for i in range(20)]
    assert judged("spike", [*usual, step(20, 50.0, is_updated=False)]) == []
    assert len(judged("spike", [*usual, step(20, 50.0, is_updated=True)])) == 1
