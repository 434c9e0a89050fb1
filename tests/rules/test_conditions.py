"""Conditions: what they say, what they hold of, and how anything else is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.errors import UnknownLayerError, UsageError
from gradscope.rules import parse_condition


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("step == 7", True),
        ("step != 7", False),
        ("step >= 8", False),
        ("loss > 10", True),
        ("loss < 10", False),
        ("lr <= 1e-3", True),
        ("unknown > 0", False),
        ('grad["b"].norm > 100', True),
        ('grad["a"].norm > 100', False),
        ('grad["*"].norm > 100', True),
        ('grad["re:^[ab]$"].norm > 100', True),
        ("grad.norm > 100", True),
        ("param_grad.norm > 0", False),
        ("out.min < 0", True),
        ('out["a"].nan', True),
        ('out["b"].nan', False),
        ("any.nan", True),
        ("any.inf", False),
        ("any.nonfinite > 2", True),
        ("loss > 10 and step == 7", True),
        ("loss > 10 and step == 8", False),
        ("loss > 99 or step == 7", True),
        ("loss > 99 or step == 8 and any.nan", False),
        ("(loss > 99 or step == 7) and any.nan", True),
        ("step>-1", True),
        ("loss < inf", True),
    ],
)
def test_a_condition_holds_for_the_rows_it_names(view, text, holds):
    rows = [
        ("a", "out", {"nan": 3}),
        ("b", "out", {}),
        ("a", "grad", {"norm": 1.0}),
        ("b", "grad", {"norm": 101.0}),
    ]
    at = view(7, rows, scalars={"loss": 11.0, "lr": 1e-3})
    assert (parse_condition(text).evaluate(at) is not None) == holds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a condition is a text such as loss > 10"),
        (3, "a condition is a text"),
        ("loss", "expected one of != < <= == > >=, got the end at character 5"),
        ("loss > ", "expected a number, got the end"),
        ("loss > x", "expected a number, got 'x' at character 8"),
        ("loss = 3", "got '=' at character 6"),
        ("grad.size > 3", "expected one of finite, nonfinite, mean, std, rms"),
        ("grad[0].norm > 3", "in quotes"),
        ('grad["x"', "expected ']'"),
        ('grad["re:("].norm > 3', "is not a valid regular expression"),
        ("any.norm > 3", "expected one of nan, inf, nonfinite"),
        ("step == 3)", "expected 'and', 'or' or the end"),
        ("(step == 3", "expected '\\)'"),
        ("step == 3 and", "expected .step., .any., the name of a logged number"),
        ("__import__('os').system('true')", "got '\\(' at character 11"),
        ("(" * 40 + "step == 3" + ")" * 40, "at most 16 brackets"),
        ("step == 1 or " * 100 + "step == 2", "at most 500 characters"),
    ],
)
def test_an_invalid_condition_is_rejected_with_its_column(text, words):
    with pytest.raises(UsageError, match=words):
        parse_condition(text)


@given(st.text(max_size=60))
def test_any_text_either_parses_or_raises_usage_error(text):
    with contextlib.suppress(UsageError):
        assert parse_condition(text).text == text.strip()


def test_a_condition_lists_the_data_that_it_needs():
    assert parse_condition("step == 3 or step == 5").is_of_steps_only
    assert not parse_condition("step == 3 and loss > 1").is_of_steps_only
    assert parse_condition("loss > 1 or grad.nan").needs_columns
    assert parse_condition("any.nan").is_about_finite
    assert not parse_condition("grad.nan").is_about_finite


def test_a_pattern_without_a_match_is_rejected_with_similar_names():
    with pytest.raises(UnknownLayerError, match="nearest of 2 are: fc1"):
        parse_condition('grad["fc3"].norm > 1').check_layers(["fc1", "head"])
