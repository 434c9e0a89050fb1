"""Pairs of runs that part at a known place for a known reason."""

import functools
import random

import numpy as np
import torch
from torch import nn


def where(comparison):
    first = comparison.first
    return first.step, first.stage, first.layer, first.kind


def codes(comparison):
    return [suspect.code for suspect in comparison.suspects]


def text_of(comparison, code):
    return next(suspect.text for suspect in comparison.suspects if suspect.code == code)


def test_the_same_run_twice_is_equal_bit_for_bit(train, compare):
    comparison = compare(train("a"), train("b"))
    assert comparison.first is None
    assert comparison.is_exact
    assert (comparison.steps, comparison.first_step, comparison.last_step) == (6, 0, 5)
    assert not comparison.suspects


def test_another_seed(train, compare):
    comparison = compare(train("a"), train("b", seed=1))
    assert where(comparison) == (0, "parameters", "head", "param.weight")
    assert codes(comparison)[0] == "seed"
    assert (
        "6 of 8 parameters differ before step 0, and the random state of torch differs too"
        in text_of(comparison, "seed")
    )


def test_one_swapped_batch(train, compare, make_batches):
    data = make_batches(6)
    data.inputs[3], data.inputs[4] = data.inputs[4], data.inputs[3]
    comparison = compare(train("a"), train("b", data=data))
    assert where(comparison) == (3, "input", "", "input.0")
    assert codes(comparison) == ["data-order"]
    assert "B has in step 3 the batch that A has in step 4" in text_of(comparison, "data-order")


def test_other_data_whose_augmentation_draws_from_numpy(train, compare, make_batches):
    def noisy():
        data = make_batches(6)
        data.inputs[2] += torch.from_numpy(np.random.standard_normal((16, 4))).float()  # noqa: NPY002 - as scripts do
        return data

    found = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - as above
        random.seed(0)
        found.append(train(f"r{seed}", data=noisy()))
    comparison = compare(*found)
    assert where(comparison) == (2, "input", "", "input.0")
    assert codes(comparison) == ["data", "random-state"]
    text = "the random state of NumPy differs in step 2 and before, when the batches were the same"
    assert text_of(comparison, "random-state") == text


def test_dropout_in_one_run_only(train, compare, net):
    comparison = compare(train("a"), train("b", make=functools.partial(net, drop=0.3)))
    assert where(comparison) == (0, "forward", "drop", "out")
    assert codes(comparison)[0] == "dropout"


def test_a_random_state_that_differs_before_dropout(train, compare, net):
    make = functools.partial(net, drop=0.3)
    a = train("a", make=make)
    b = train("b", make=make, after={1: [lambda *_: torch.rand(1)]})
    comparison = compare(a, b)
    assert where(comparison) == (2, "forward", "drop", "out")
    assert text_of(comparison, "dropout") == "dropout: random state differs before `drop`"


def test_one_changed_weight_before_the_first_step(train, compare):
    def change(model, _):
        with torch.no_grad():
            model.fc2.weight[3, 5] += 0.01

    comparison = compare(train("a"), train("b", prepare=change))
    assert where(comparison) == (0, "parameters", "fc2", "param.weight")
    assert codes(comparison) == ["initial-parameters"]
    assert "only `fc2.weight` of 8 parameters differ" in text_of(comparison, "initial-parameters")


class Sums(nn.Module):
    """A layer that adds 64 columns in one of two orders."""

    def __init__(self, is_reversed):
        super().__init__()
        self.is_reversed = is_reversed

    def forward(self, x):
        columns = list((x.repeat(1, 8) * torch.linspace(0.1, 1.1, 64)).unbind(1))
        return x * sum(reversed(columns) if self.is_reversed else columns).unsqueeze(1)


def with_sums(net, *, is_reversed):
    model = net()
    model.act = Sums(is_reversed)
    return model


def test_another_order_of_a_sum(train, compare, net):
    paths = [
        train(str(each), make=functools.partial(with_sums, net, is_reversed=each))
        for each in (False, True)
    ]
    comparison = compare(*paths)
    assert where(comparison) == (0, "forward", "act", "out")
    assert codes(comparison) == ["rounding"]
    assert "another order of a sum" in text_of(comparison, "rounding")
    assert comparison.first.size < 1e-6


def test_a_learning_rate_that_differs_from_a_step_on(train, compare):
    def slower(_, optimizer):
        optimizer.param_groups[0]["lr"] = 0.05

    comparison = compare(train("a", steps=12), train("b", steps=12, before={10: [slower]}))
    assert where(comparison)[:2] == (10, "optimizer")
    assert (
        text_of(comparison, "learning-rate")
        == "learning rate differs from step 10: 0.1 in A, 0.05 in B"
    )
    assert codes(comparison)[0] == "learning-rate"


def test_a_learning_rate_between_two_observed_steps(train, compare):
    def slower(_, optimizer):
        optimizer.param_groups[0]["lr"] = 0.05

    a, b = train("a", steps=12, every=4), train("b", steps=12, every=4, before={6: [slower]})
    comparison = compare(a, b)
    assert where(comparison)[:2] == (8, "parameters")
    assert comparison.first.after_step == 4
    assert codes(comparison) == ["learning-rate", "not-observed"]


def test_one_flipped_bit_of_one_weight_between_two_steps(train, compare):
    def flip(model, _):
        model.fc1.weight.data.view(torch.int32)[2, 1] ^= 1

    comparison = compare(train("a"), train("b", after={2: [flip]}))
    assert where(comparison) == (3, "parameters", "fc1", "param.weight")
    assert comparison.first.others == 0
    assert codes(comparison) == ["changed-outside-optimizer"]
    assert "`fc1.weight` was equal after the optimizer of step 2 and differs before that of step 3" in (
        comparison.suspects[0].text
    )


class RoundedLinear(nn.Linear):
    """A product of operands with 10 bits of mantissa, as TF32 has."""

    def forward(self, x):
        return nn.functional.linear(_rounded(x), _rounded(self.weight), self.bias)


def _rounded(x):
    bits = (x.detach().view(torch.int32) + 0x1000) & ~0x1FFF
    return x + (bits.view(torch.float32) - x.detach())


def rounded(net):
    model = net()
    model.fc2.__class__ = RoundedLinear
    return model


def test_products_of_rounded_operands(train, compare, net):
    comparison = compare(train("a"), train("b", make=functools.partial(rounded, net)))
    assert where(comparison) == (0, "forward", "fc2", "out")
    assert "precision" in codes(comparison)
    assert "TF32" in text_of(comparison, "precision")


class Total(nn.Module):
    """A sum that PyTorch divides among its threads."""

    def forward(self, x):
        return x[:, :4] + x.sum() / 1000


def test_another_number_of_threads(train, compare, make_batches):
    data = make_batches(3, size=60_000)

    def threads(number):
        return lambda *_: torch.set_num_threads(number)

    try:
        a, b = (
            train(
                f"threads{number}", steps=3, data=data, prepare=threads(number),
                make=lambda: nn.Sequential(Total(), nn.Linear(4, 1)),
            )
            for number in (1, 3)
        )  # fmt: skip
    finally:
        torch.set_num_threads(1)
    comparison = compare(a, b)
    assert where(comparison) == (0, "forward", "0", "out")
    assert codes(comparison) == ["rounding"]
    assert "threads 1 in A, 3 in B" in text_of(comparison, "rounding")


def test_batch_norm_in_eval_mode(train, compare):
    comparison = compare(train("a"), train("b", before={2: [lambda model, _: model.bn1.eval()]}))
    assert where(comparison) == (2, "forward", "bn1", "out")
    assert codes(comparison)[0] == "eval-mode"
    assert text_of(comparison, "eval-mode") == "`bn1` (BatchNorm1d) is in eval mode in B and not in A"


def test_another_loss_shows_in_the_first_gradient(train, compare, make_batches):
    data = make_batches(6)
    data.targets[1] = data.targets[1] * 2
    comparison = compare(train("a"), train("b", data=data))
    assert where(comparison) == (1, "backward", "head", "grad")
    assert codes(comparison)[0] == "loss"


def test_without_digests_statistics_find_the_same_place(train, compare):
    a, b = train("a", digest=False), train("b", seed=1, digest=False)
    comparison = compare(a, b)
    assert where(comparison)[:2] == (0, "parameters")
    assert comparison.exact_steps == 0
    assert compare(a, train("c", digest=False)).first is None


def test_a_tolerance_ignores_what_is_smaller(train, compare):
    def change(model, _):
        with torch.no_grad():
            model.fc2.weight.mul_(1 + 1e-6)

    a, b = train("a", steps=2), train("b", steps=2, prepare=change)
    assert compare(a, b).first is not None
    assert compare(a, b, rtol=1e-3).first is None
    assert where(compare(a, b, rtol=1e-7)) == (0, "parameters", "fc2", "param.weight")


def test_the_growth_of_a_difference_is_that_of_the_parameters(train, compare):
    def change(model, _):
        with torch.no_grad():
            model.fc2.weight.mul_(1 + 1e-4)

    growth = compare(train("a", steps=20), train("b", steps=20, prepare=change)).growth
    assert growth[0].step == 0
    assert 1e-5 < growth[0].size < 1e-4  # one of four weights
    assert growth[-1].step == 19
    assert len(growth) <= 6


def test_a_renamed_model_and_one_with_another_layer(train, compare):
    def deep(count):
        return lambda: nn.Sequential(
            nn.Linear(4, 8), *(nn.Tanh() for _ in range(count)), nn.Linear(8, 1)
        )

    def named():
        model = nn.Module()
        model.first, model.middle, model.last = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)
        model.forward = lambda x: model.last(model.middle(model.first(x)))
        return model

    a = train("a", make=deep(1))
    renamed = compare(a, train("b", make=named))
    assert renamed.layers.renamed == (("0", "first"), ("1", "middle"), ("2", "last"))
    assert renamed.first is None
    longer = compare(a, train("c", make=deep(2)))
    assert [note.code for note in longer.notes].count("model") >= 1
    assert longer.layers.only_b
