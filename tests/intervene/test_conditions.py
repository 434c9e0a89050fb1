"""A condition is parsed, never run, and means what NumPy computes in float64."""

import math

import numpy as np
import pytest
import torch

from gradscope.columns import derive_from
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


def test_and_binds_tighter_than_or_and_brackets_group():
    tensors = [torch.tensor(VALUES)]  # one NaN, three infinities
    assert bool(parse_condition("inf > 0 or nan > 0 and norm > 1e9").holds(tensors))
    assert not bool(parse_condition("(inf > 0 or nan > 0) and norm > 1e9").holds(tensors))


def test_of_complex_numbers_it_takes_the_magnitudes():
    assert bool(parse_condition("absmax > 4.99 and max < 5.01").holds([torch.tensor([3 + 4j, 1j])]))


def test_of_no_element_at_all_nothing_is_large():
    empty = torch.empty(0)
    assert not parse_condition("norm > 0 or absmax > 0 or nan > 0").holds([empty])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a condition is a text"),
        ("norm", "expected one of != < .*, got the end at character 5"),
        ("norm > ", "expected a number, got the end"),
        ("norm > ten", "expected a number, got 'ten' at character 8"),
        ("10 > norm", "expected one of norm, rms, .*, got '10' at character 1"),
        ("norm > 10 and", "expected one of norm, rms, .*, got the end"),
        ("norm > 1; import os", "expected 'and', 'or' or the end, got ';' at character 9"),
        ("__import__('os') > 1", "got '__import__' at character 1"),
        ("loss > 1", "expected one of norm, rms, .*, got 'loss' at character 1"),
        ("norm => 1", "got '=' at character 6"),
        ("norm > 1e", "expected 'and', 'or' or the end, got 'e' at character 9"),
        ("any.nan", "expected one of"),
        ("norm.nan > 0", "got '.' at character 5"),
        ("norm > 1 " * 100, "at most 500 characters"),
    ],
)
def test_anything_else_is_refused_with_the_column_and_what_was_expected(text, words):
    with pytest.raises(UsageError, match=words):
        parse_condition(text)


@pytest.mark.parametrize("name", ["norm", "rms", "mean", "std", "absmax"])
def test_the_formulas_for_tensors_are_those_of_columns(name):
    values = torch.randn(100, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    columns = {"count": 100.0, "nan": 0.0, "posinf": 0.0, "neginf": 0.0, "sum": values.sum(),
               "sumsq": values.square().sum(), "min": values.min(), "max": values.max()}  # fmt: skip
    number = float(derive_from(name, lambda column: np.array(float(columns[column]))))
    assert bool(
        parse_condition(f"{name} >= {number - 1e-9} and {name} <= {number + 1e-9}").holds([values])
    )
