"""The check of replicas judges the statistics of real parameters of several ranks."""

import pytest
import torch

from gradscope.rules import ReplicaCheck
from support.rank_rows import NAMES, rank_rows


def tensors(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape or (40, 10), generator=generator) for _ in NAMES]


def check(steps):
    """The findings of steps given as a list of (parameters, gradients, is_copy) for each rank."""
    checker = ReplicaCheck()
    found = [
        checker.check(step, {r: rank_rows(p, g, is_copy=c) for r, (p, g, c) in enumerate(ranks)})
        for step, ranks in enumerate(steps)
    ]
    return [each for each in found if each is not None]


def test_one_changed_element_is_found_in_the_second_step_and_named_with_its_rank():
    parameters, gradients = tensors(0), tensors(1)
    changed = [parameters[0], parameters[1].clone()]
    changed[1][3, 4] += 0.05
    ranks = [(parameters, gradients, False), (parameters, gradients, True), (changed, gradients, True)]
    (found,) = check([ranks] * 4)
    assert (found.code, found.severity, found.layers) == ("replicas-differ", "error", ("last",))
    assert (found.since_step, found.found_step) == (0, 1)
    assert (found.evidence["of_rank"], found.evidence["rank"]) == (0, 2)
    rms = float(changed[1].double().square().mean().sqrt())
    assert f"{rms:.6g}" in found.message


@pytest.mark.parametrize(
    "case", ["equal", "rounding", "shards", "another gradient", "another shape", "nan", "zeros"]
)
def test_ranks_that_are_equal_or_are_no_replicas_are_silent(case):
    parameters, gradients = tensors(0), tensors(1)
    other, other_gradients, is_copy = tensors(2), gradients, True
    if case in ("equal", "rounding"):
        other = [each * (1 + 2**-20 * (case == "rounding")) for each in parameters]
    elif case == "shards":
        is_copy = False
    elif case == "another gradient":  # they began different, and are trained apart: two models
        other_gradients = tensors(3)
    elif case == "another shape":
        other = tensors(2, 20, 10)
    elif case == "nan":
        other = [each.clone().fill_(float("nan")) for each in parameters]
    else:
        gradients = other_gradients = [torch.zeros(40, 10)] * 2
    ranks = [(parameters, gradients, False), (other, other_gradients, is_copy)]
    assert check([ranks] * 20) == []


def test_ranks_that_begin_equal_and_train_alone_are_a_hint():
    steps = []
    for step in range(14):
        first, second = tensors(0), [each + 0.1 * min(step, 1) for each in tensors(0)]
        steps.append([(first, tensors(1), False), (second, tensors(2 + step), True)])
    (found,) = check(steps)
    assert (found.severity, found.since_step) == ("hint", 1)
    averaged = [ranks if step % 5 else steps[0] for step, ranks in enumerate(steps)]
    assert check(averaged) == []
