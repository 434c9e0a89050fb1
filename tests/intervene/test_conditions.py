"""A condition is parsed, never run, and means what NumPy computes in float64."""

import math

import numpy as np
import pytest
import torch

from gradscope.errors import UsageError
from gradscope.intervene import STATISTICS, parse_condition

VALUES = [0.5, -3.0, 0.0, 2.0, math.nan, math.inf, -math.inf, 7.5, -0.0]


def expected(name, values):
    finite = values[np.isfinite(values)]
    return {
        "norm": np.sqrt((finite**2).sum()),
        "rms": np.sqrt((finite**2).mean()),
        "mean": finite.mean(),
        "std": finite.std(),
        "min": finite.min(),
        "max": finite.max(),
        "absmax": np.abs(finite).max(),
        "nan": np.isnan(values).sum(),
        "inf": np.isinf(values).sum(),
        "zero": (values == 0).sum(),
    }[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", STATISTICS)
def test_each_statistic_is_that_of_float64_over_one_tensor_and_over_several(name, dtype):
    tensor = torch.tensor(VALUES, dtype=dtype)
    number = float(expected(name, tensor.double().numpy()))
    for tensors in ([tensor], [tensor[:2], tensor[2:5].view(3, 1), tensor[5:]]):
        for text, holds in (
            (f"{name} > {number - 1e-6}", True),
            (f"{name} < {number + 1e-6}", True),
            (f"{name} > {number + 1e-6}", False),
            (f"{name} <= {number - 1e-6}", False),
        ):
            assert bool(parse_condition(text).holds(tensors)) is holds, text


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("norm > 10", False),
        ("nan == 0", False),
        ("nan != 0 and inf >= 2", True),
        ("nan > 0 and norm > 100", False),
        ("nan > 5 or absmax > 1e0 or norm > 1e9", True),
        ("  absmax>=7.5  ", True),
        ("min < -2", True),
        ("max < inf", True),
    ],
)
def test_comparisons_are_joined_by_and_or_by_or(text, holds):
    assert bool(parse_condition(text).holds([torch.tensor(VALUES)])) is holds


def test_of_complex_numbers_it_takes_the_magnitudes():
    assert bool(parse_condition("absmax > 4.99 and max < 5.01").holds([torch.tensor([3 + 4j, 1j])]))


def test_of_no_element_at_all_nothing_is_large():
    empty = torch.empty(0)
    assert not parse_condition("norm > 0 or absmax > 0 or nan > 0").holds([empty])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "norm",
        "norm > ",
        "norm > ten",
        "10 > norm",
        "norm > 10 and",
        "norm > 1 and nan > 0 or inf > 0",
        "norm > 1; import os",
        "__import__('os') > 1",
        "loss > 1",
        "norm => 1",
        "norm > 1e",
        "norm > 1 " * 100,
    ],
)
def test_anything_else_is_refused_in_words(text):
    with pytest.raises(UsageError, match="a condition is a comparison as `norm > 10`"):
        parse_condition(text)
