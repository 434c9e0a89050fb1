"""The language of conditions: what is accepted, its structure, and that Python's own rules do not leak in."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.catalogue.expressions import Combination, Comparison, Vocabulary, parse_expression
from gradscope.errors import UsageError

WORDS = Vocabulary("examples: loss > 1", (), ("out", "grad"), ("norm", "nan"), ("nan",))


def parse(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return parse_expression(text, WORDS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss > 10", Comparison("loss", ">", 10.0)),
        ("lambda > 1and if<-2.5e-3", Combination((parse("lambda>1"), parse("if < -2.5e-3")), True)),
        ("step == 007", Comparison("step", "==", 7.0)),
        ("x<.5", Comparison("x", "<", 0.5)),
        ("x >= 5.", Comparison("x", ">=", 5.0)),
        ("x != -inf", Comparison("x", "!=", -float("inf"))),
        ("größe > 1", Comparison("größe", ">", 1.0)),
        ("a\n> 1\n or\tb > 2 ", Combination((parse("a > 1"), parse("b > 2")), False)),
        (r'out["re:fc\d\w"].nan', Comparison("nan", ">", 0.0, "out", r"re:fc\d\w")),
        ("grad['*'] . norm > 1", Comparison("norm", ">", 1.0, "grad", "*")),
        ("any.nan", Comparison("nan", ">", 0.0, "any")),
        ("grad > 1", Comparison("grad", ">", 1.0)),
    ],
)
def test_literals_names_and_strings_are_those_of_the_language_and_not_pythons(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1 < loss < 3", "loss < 1 < 3", "loss + 1 > 2", "not loss > 1", "loss is 1", "loss > 1 # why", "loss > 1_000",
        "loss > 0x10", "- loss > 1", "loss > - 1", "loss > 1 if a > 1", "[loss] > 1", "() > 1", "loss > (a > 1)",
        "(a > 1) > 2", "lambda: 1", "out.__class__", "out[0].nan", "out['a' 'b'].nan", 'out["""a"""].nan',
        "out['a'][0]",
        "any", "any['x']", "out", "out['x']", "out.norm", "out.nan.norm > 1", "a > 1 (b > 2)", "f'x' > 1",
        "a > 1, b > 2",
        "a := 1", "a > 1) or (b > 2", "(a > 1]",
    ],
)  # fmt: skip
def test_no_other_expression_is_accepted(text):
    with pytest.raises(UsageError, match=r"expected .*, got .* at character \d+|got the end"):
        parse(text)


@given(st.text("abn>=<.()[] 1'\"#\\\n-+eor_", max_size=40))
def test_any_text_parses_or_raises_usage_error(text):
    try:
        expression = parse(text)
    except UsageError:
        return
    assert isinstance(expression, Comparison | Combination)
