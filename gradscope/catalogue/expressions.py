"""The language of conditions: `loss > 10`, `grad["blocks.3.*"].norm > 100 and step >= 500`, `any.nan`.

Nothing is evaluated as Python.

    condition  = comparison, joined by `and` and `or`, with brackets
    comparison = name sign number
               | kind ["pattern"] . quantity [ sign number ]      the pattern and its brackets are optional
    sign       = > | >= | < | <= | == | !=

A quantity that counts elements can be used without a comparison: `out.nan` means `out.nan > 0`. The
kind `any` means all kinds of rows, and has counts only.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from gradscope.errors import UsageError
from gradscope.names import check_pattern

__all__ = [
    "COMPARISON_SIGNS",
    "Combination",
    "Comparison",
    "Expression",
    "Vocabulary",
    "comparisons_of",
    "parse_expression",
]

COMPARISON_SIGNS = ("!=", "<", "<=", "==", ">", ">=")
_LENGTH_LIMIT = 500
_DEPTH_LIMIT = 16
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]inf\b)|(?P<word>and|or)\b
    |(?P<name>[A-Za-z_]\w*)|(?P<string>"[^"]*"|'[^']*')|(?P<sign>[><=!]=|[><.()\[\]]))""",
    re.VERBOSE,
)
_END = "'and', 'or' or the end"
_PATTERN = 'a layer\'s name or pattern in quotes, as "blocks.3.*"'
_ONE_SIGN = "one of " + " ".join(COMPARISON_SIGNS)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison with a number: of a named number, or of a quantity of the rows of a kind.

    kind: empty for a named number. pattern: None for the rows of all layers.
    """

    name: str
    sign: str
    limit: float
    kind: str = ""
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Combination:
    """Conditions joined by `and` (`needs_all`) or by `or`."""

    parts: tuple["Expression", ...]
    needs_all: bool


Expression: TypeAlias = Comparison | Combination


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that are allowed in one kind of condition. If `names` is empty, any name is allowed."""

    examples: str
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()


def parse_expression(text: object, words: Vocabulary) -> Expression:
    """Parse a condition. Raises UsageError with the column and what was expected there."""
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"a condition is a text such as loss > 10, got {text!r}; {words.examples}")
    if len(text) > _LENGTH_LIMIT:
        raise UsageError(f"a condition has at most {_LENGTH_LIMIT} characters, got {len(text)}")
    return _Parser(text, words).parse()


def comparisons_of(expression: Expression) -> Iterator[Comparison]:
    """Iterate over the comparisons of a condition, from left to right."""
    if isinstance(expression, Comparison):
        yield expression
    else:
        for part in expression.parts:
            yield from comparisons_of(part)


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


class _Parser:
    """The parser of one text: a method for each rule of the grammar. The last token has the kind `end`."""

    def __init__(self, text: str, words: Vocabulary) -> None:
        self._text = text
        self._words = words
        self._tokens = list(_tokens_of(text))
        self._depth = 0

    def parse(self) -> Expression:
        expression = self._alternatives()
        if self._next.kind != "end":
            raise self._error(_END)
        return expression

    @property
    def _next(self) -> _Token:
        return self._tokens[0]

    def _alternatives(self) -> Expression:
        return self._joined("or", lambda: self._joined("and", self._operand))

    def _joined(self, word: str, parse_part: Callable[[], Expression]) -> Expression:
        parts = [parse_part()]
        while self._skip(word):
            parts.append(parse_part())
        return parts[0] if len(parts) == 1 else Combination(tuple(parts), word == "and")

    def _operand(self) -> Expression:
        if not self._skip("("):
            return self._comparison()
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise self._error(f"at most {_DEPTH_LIMIT} brackets in one another")
        inner = self._alternatives()
        self._require(")")
        self._depth -= 1
        return inner

    def _comparison(self) -> Comparison:
        name, kind, pattern = self._subject()
        if self._next.text in COMPARISON_SIGNS:
            return Comparison(name, self._pop().text, self._number(), kind, pattern)
        if kind and name in self._words.counts:
            return Comparison(name, ">", 0.0, kind, pattern)
        raise self._error(_ONE_SIGN)

    def _subject(self) -> tuple[str, str, str | None]:
        """Return the left side of a comparison: name or quantity, kind, pattern."""
        words = self._words
        if self._next.kind != "name" or (words.names and self._next.text not in words.names):
            known = ", ".join(words.names or words.kinds)
            raise self._error(
                f"one of {known}"
                if words.names
                else f"'step', 'any', the name of a logged number such as 'loss', or one of {known}"
            )
        name = self._pop().text
        is_kind = not words.names and (name == "any" or name in words.kinds)
        if not is_kind or (name != "any" and self._next.text not in (".", "[")):
            return name, "", None
        pattern = self._pattern() if self._skip("[") else None
        self._require(".")
        allowed = words.counts if name == "any" else words.quantities
        if self._next.text not in allowed:
            raise self._error("one of " + ", ".join(allowed))
        return self._pop().text, name, pattern

    def _pattern(self) -> str:
        if self._next.kind != "string":
            raise self._error(_PATTERN)
        pattern = self._pop().text[1:-1]
        check_pattern(pattern)
        self._require("]")
        return pattern

    def _number(self) -> float:
        if self._next.kind != "number" and self._next.text != "inf":
            raise self._error("a number")
        return float(self._pop().text)

    def _pop(self) -> _Token:
        return self._tokens.pop(0)

    def _skip(self, text: str) -> bool:
        """Skip the next token if it is this one; return whether it was."""
        return self._next.text == text and bool(self._pop())

    def _require(self, text: str) -> None:
        if not self._skip(text):
            raise self._error(repr(text))

    def _error(self, expected: str) -> UsageError:
        token = self._next
        got = "the end" if token.kind == "end" else repr(token.text)
        return UsageError(
            f"not a condition: expected {expected}, got {got} at character {token.column + 1} of "
            f"{self._text!r}; {self._words.examples}"
        )


def _tokens_of(text: str) -> Iterator[_Token]:
    at = 0
    while match := _TOKEN.match(text, at):
        kind = str(match.lastgroup)
        yield _Token(kind, match[kind], match.start(kind))
        at = match.end()
    rest = text[at:].lstrip()
    yield _Token("other", rest[0], len(text) - len(rest)) if rest else _Token("end", "", len(text))
