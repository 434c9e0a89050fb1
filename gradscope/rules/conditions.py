"""Conditions that a person writes: `grad["blocks.3.*"].norm > 100`, `any.nan`, `step == 500`.

    condition = both { "or" both }
    both      = one { "and" one }
    one       = "(" condition ")" | number-term | layers-term | "any" "." count
    number-term = name compare number               step, loss, lr, or whatever else is logged
    layers-term = kind [ "[" string "]" ] "." quantity [ compare number ]
    kind      = out | grad | param | param_grad | update        count = nan | inf | nonfinite
    compare   = > | >= | < | <= | == | !=

A layers-term holds where it holds for any of the rows that it means; without a comparison, which only a
count may lack, where there is one such element. What was not measured makes no condition true. Nothing
is ever evaluated as Python.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from gradscope.columns import KINDS
from gradscope.errors import UnknownLayerError, UsageError
from gradscope.names import check_pattern, match_names
from gradscope.rules.step_view import QUANTITIES, StepView

__all__ = ["Condition", "parse_condition"]

_LENGTH_LIMIT = 500
_DEPTH_LIMIT = 16
_COUNTS = ("nan", "inf", "nonfinite")
_WHOLE_KINDS = ("out", "grad", "param", "param_grad")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]inf\b)
    |(?P<name>[A-Za-z_]\w*)|(?P<string>"[^"]*"|'[^']*')|(?P<sign>[><=!]=|[><.()\[\]]))""",
    re.VERBOSE,
)
_EXAMPLES = 'examples: grad["blocks.3.*"].norm > 100, any.nan, step == 500, loss > 10'


@dataclass(frozen=True, slots=True)
class _Number:
    """`step`, or a logged number, compared."""

    name: str
    compare: str
    limit: float

    def look(self, view: StepView) -> str | None:
        value = float(view.step) if self.name == "step" else view.scalars.get(self.name, math.nan)
        if math.isnan(value) or not _COMPARE[self.compare](value, self.limit):
            return None
        return f"{self.name} is {value:g}"


@dataclass(frozen=True, slots=True)
class _Layers:
    """A quantity of rows, compared. `pattern` None: of all layers; `kind` empty: of all kinds."""

    kind: str
    pattern: str | None
    quantity: str
    compare: str
    limit: float

    def look(self, view: StepView) -> str | None:
        block = view.block
        if block is None:
            return None
        kinds = (self.kind,) if self.kind else _WHOLE_KINDS
        rows = np.concatenate([view.rows(kind) for kind in kinds])
        if self.pattern is not None:
            rows = rows[np.isin(block.layer[rows], self._wanted(self.pattern, view))]
        values = view.column(self.quantity)[rows]
        with np.errstate(invalid="ignore"):
            holds = np.flatnonzero(_COMPARE[self.compare](values, self.limit) & ~np.isnan(values))
        if not len(holds):
            return None
        row = rows[holds[0]]
        kind, layer = block.kinds[int(block.kind[row])], view.layers[int(block.layer[row])]
        others = f", and of {len(holds) - 1} more" if len(holds) > 1 else ""
        return f'{kind}["{layer}"].{self.quantity} is {values[holds[0]]:g}{others}'

    @staticmethod
    def _wanted(pattern: str, view: StepView) -> list[int]:
        try:
            names = set(match_names(pattern, view.layers))
        except UnknownLayerError:  # the model has changed since: such a layer holds nothing
            return []
        return [i for i, name in enumerate(view.layers) if name in names]


@dataclass(frozen=True, slots=True)
class _Both:
    parts: tuple["_Term", ...]

    def look(self, view: StepView) -> str | None:
        found = [part.look(view) for part in self.parts]
        return None if None in found else " and ".join(word for word in found if word)


@dataclass(frozen=True, slots=True)
class _Either:
    parts: tuple["_Term", ...]

    def look(self, view: StepView) -> str | None:
        return next((found for part in self.parts if (found := part.look(view)) is not None), None)


_Term: TypeAlias = _Number | _Layers | _Both | _Either


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition; `text` is what was written."""

    text: str
    _term: _Term

    def look(self, view: StepView) -> str | None:
        """Return in words what makes it true of a reading; None where it is not."""
        return self._term.look(view)

    @property
    def is_of_steps_only(self) -> bool:
        """Whether it needs nothing but the number of the step."""
        return all(isinstance(term, _Number) and term.name == "step" for term in _leaves(self._term))

    @property
    def needs_columns(self) -> bool:
        """Whether it can only be judged in an observed step."""
        return any(isinstance(term, _Layers) for term in _leaves(self._term))

    @property
    def is_about_finite(self) -> bool:
        """Whether it is `any.nan` or its like, which holds as soon as a parameter's gradient is not."""
        term = self._term
        return isinstance(term, _Layers) and not term.kind and term.compare == ">" and term.limit == 0

    def check_layers(self, names: list[str]) -> None:
        """Raise UnknownLayerError where a pattern means none of these names."""
        for term in _leaves(self._term):
            if isinstance(term, _Layers) and term.pattern is not None:
                match_names(term.pattern, names)


def parse_condition(text: object) -> Condition:
    """Return what a text says. Raises UsageError, with the place, for what is no condition."""
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"a condition is a text such as loss > 10, got {text!r}; {_EXAMPLES}")
    if len(text) > _LENGTH_LIMIT:
        raise UsageError(f"a condition has at most {_LENGTH_LIMIT} characters, got {len(text)}")
    parser = _Parser(text)
    term = parser.either(0)
    if parser.kind != "end":
        raise parser.error("expected 'and', 'or' or the end")
    return Condition(text.strip(), term)


def _leaves(term: _Term) -> Iterator[_Number | _Layers]:
    if isinstance(term, _Number | _Layers):
        yield term
    else:
        for part in term.parts:
            yield from _leaves(part)


class _Parser:
    """One text, read from left to right. `kind` and `text` are of what comes next."""

    def __init__(self, text: str) -> None:
        self._whole = text
        self._next = 0
        self.kind, self.text, self._at = "", "", 0
        self._advance()

    def either(self, depth: int) -> _Term:
        parts = [self._both(depth)]
        while self._takes("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else _Either(tuple(parts))

    def error(self, expected: str) -> UsageError:
        found = repr(self.text) if self.kind != "end" else "the end"
        return UsageError(
            f"no condition: {expected}, got {found} at character {self._at + 1} of {self._whole!r}; "
            f"{_EXAMPLES}"
        )

    def _both(self, depth: int) -> _Term:
        parts = [self._one(depth)]
        while self._takes("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else _Both(tuple(parts))

    def _one(self, depth: int) -> _Term:
        if self.text == "(" and self.kind == "sign":
            if depth == _DEPTH_LIMIT:
                raise self.error(f"at most {_DEPTH_LIMIT} brackets in one another")
            self._advance()
            inside = self.either(depth + 1)
            self._expect(")")
            return inside
        if self.kind != "name":
            raise self.error("expected a name, as step, loss, any, or one of " + ", ".join(KINDS))
        name = self._advance()
        if name == "any":
            return self._layers("", None)
        if name in KINDS and self.text in (".", "["):
            return self._layers(name, self._pattern() if self.text == "[" else None)
        return _Number(name, self._comparison(), self._limit())

    def _pattern(self) -> str:
        self._expect("[")
        if self.kind != "string":
            raise self.error('expected a layer\'s name or pattern in quotes, as "blocks.3.*"')
        pattern = self._advance()[1:-1]
        check_pattern(pattern)
        self._expect("]")
        return pattern

    def _layers(self, kind: str, pattern: str | None) -> _Layers:
        self._expect(".")
        allowed = QUANTITIES if kind else _COUNTS
        if self.kind != "name" or self.text not in allowed:
            raise self.error("expected one of " + ", ".join(allowed))
        quantity = self._advance()
        if quantity in _COUNTS and self.text not in _COMPARE:
            return _Layers(kind, pattern, quantity, ">", 0.0)
        return _Layers(kind, pattern, quantity, self._comparison(), self._limit())

    def _comparison(self) -> str:
        if self.text not in _COMPARE or self.kind != "sign":
            raise self.error("expected one of " + " ".join(sorted(_COMPARE)))
        return self._advance()

    def _limit(self) -> float:
        if self.kind != "number" and self.text != "inf":
            raise self.error("expected a number")
        return float(self._advance())

    def _takes(self, word: str) -> bool:
        if self.kind == "name" and self.text == word:
            self._advance()
            return True
        return False

    def _expect(self, sign: str) -> None:
        if self.kind != "sign" or self.text != sign:
            raise self.error(f"expected {sign!r}")
        self._advance()

    def _advance(self) -> str:
        """Go to the next token; return the one before."""
        before = self.text
        self._at = self._next
        match = _TOKEN.match(self._whole, self._next)
        if match is None:
            rest = self._whole[self._next :]
            self._at += len(rest) - len(rest.lstrip())
            self.kind, self.text = ("end", "") if not rest.strip() else ("?", rest.strip()[0])
            return before
        self.kind, self.text = str(match.lastgroup), match.group(str(match.lastgroup))
        self._at, self._next = match.start(match.lastgroup or 0), match.end()
        return before
