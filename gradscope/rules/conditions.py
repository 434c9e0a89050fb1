"""Conditions of breakpoints: `grad["blocks.3.*"].norm > 100`, `any.nan`, `step == 500`, `loss > 10`.

`gradscope/catalogue/expressions.py` defines the language. A comparison of rows is true if it is true for
any of them. A number that was not measured makes no condition true.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradscope.catalogue.expressions import (
    Combination,
    Comparison,
    Expression,
    Vocabulary,
    comparisons_of,
    parse_expression,
)
from gradscope.columns import KINDS
from gradscope.errors import UnknownLayerError
from gradscope.names import match_names
from gradscope.rules.step_view import QUANTITIES, StepView

__all__ = ["Condition", "parse_condition"]

_WORDS = Vocabulary(
    examples='examples: grad["blocks.3.*"].norm > 100, any.nan, step == 500, loss > 10',
    kinds=tuple(KINDS),
    quantities=QUANTITIES,
    counts=("nan", "inf", "nonfinite"),
)
_ANY_KINDS = ("out", "grad", "param", "param_grad")
"""The kinds of row that `any` covers."""

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition. `text` is its source."""

    text: str
    expression: Expression

    def evaluate(self, view: StepView) -> str | None:
        """Return text on what makes the condition true in a step; None if it is false."""
        return _true_terms(self.expression, view)

    @property
    def is_of_steps_only(self) -> bool:
        """Whether the condition depends only on the step number."""
        return all(not each.kind and each.name == "step" for each in comparisons_of(self.expression))

    @property
    def needs_columns(self) -> bool:
        """Whether the condition can be evaluated only in observed steps."""
        return any(each.kind for each in comparisons_of(self.expression))

    @property
    def is_about_finite(self) -> bool:
        """Whether the condition is `any.nan`, `any.inf` or `any.nonfinite`, which the nonfinite check can evaluate."""
        term = self.expression
        if not isinstance(term, Comparison):
            return False
        return (term.kind, term.sign, term.limit) == ("any", ">", 0.0)

    def check_layers(self, names: list[str]) -> None:
        """Raise UnknownLayerError if a pattern matches none of these names."""
        for each in comparisons_of(self.expression):
            if each.pattern is not None:
                match_names(each.pattern, names)


def parse_condition(text: object) -> Condition:
    """Parse a condition. Raises UsageError with the position of the error and what was expected there."""
    return Condition(str(text).strip(), parse_expression(text, _WORDS))


def _true_terms(expression: Expression, view: StepView) -> str | None:
    if isinstance(expression, Combination):
        found = (_true_terms(part, view) for part in expression.parts)
        if not expression.needs_all:
            return next((text for text in found if text is not None), None)
        texts = list(found)
        return None if None in texts else " and ".join(text for text in texts if text)
    return _true_rows(expression, view) if expression.kind else _true_number(expression, view)


def _true_number(term: Comparison, view: StepView) -> str | None:
    value = float(view.step) if term.name == "step" else view.scalars.get(term.name, math.nan)
    if math.isnan(value) or not _COMPARE[term.sign](value, term.limit):
        return None
    return f"{term.name} is {value:g}"


def _true_rows(term: Comparison, view: StepView) -> str | None:
    block = view.block
    if block is None:
        return None
    kinds = _ANY_KINDS if term.kind == "any" else (term.kind,)
    rows = np.concatenate([view.rows(kind) for kind in kinds])
    if term.pattern is not None:
        rows = rows[np.isin(block.layer[rows], _layers(term.pattern, view))]
    values = view.column(term.name)[rows]
    with np.errstate(invalid="ignore"):
        holds = np.flatnonzero(_COMPARE[term.sign](values, term.limit) & ~np.isnan(values))
    if not len(holds):
        return None
    row = rows[holds[0]]
    kind, layer = block.kinds[int(block.kind[row])], view.layers[int(block.layer[row])]
    others = f", and of {len(holds) - 1} more" if len(holds) > 1 else ""
    return f'{kind}["{layer}"].{term.name} is {values[holds[0]]:g}{others}'


def _layers(pattern: str, view: StepView) -> list[int]:
    try:
        names = set(match_names(pattern, view.layers))
    except UnknownLayerError:  # the model has changed, and the pattern no longer matches a layer
        return []
    return [i for i, name in enumerate(view.layers) if name in names]
