"""The language of conditions: `loss > 10`, `grad["blocks.3.*"].norm > 100 and step >= 500`, `any.nan`.

A condition is a subset of a Python expression. `ast` parses it; only a few types of nodes are allowed,
and nothing is evaluated as Python.

    condition  = comparison, joined by `and` and `or`, with brackets
    comparison = name sign number
               | kind ["pattern"] . quantity [ sign number ]      the pattern and its brackets are optional
    sign       = > | >= | < | <= | == | !=

A quantity that counts elements can be used without a comparison: `out.nan` means `out.nan > 0`. The
kind `any` means all kinds of rows, and has counts only.
"""

import ast
import re
from bisect import bisect_left
from collections.abc import Iterator
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
_SIGNS: dict[type[ast.cmpop], str] = {
    ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_LENGTH_LIMIT = 500
_DEPTH_LIMIT = 16
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]inf\b)|(?P<word>and|or)\b
    |(?P<name>[A-Za-z_]\w*)|(?P<string>"[^"]*"|'[^']*')|(?P<sign>[><=!]=|[><.()\[\]]))""",
    re.VERBOSE,
)
_END = "'and', 'or' or the end"
_PATTERN = 'a layer\'s name or pattern in quotes, as "blocks.3.*"'
_VALUES = ("number", "name", "string")
_CLOSING = {"(": ")", "[": "]"}


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
    """The parser of one text. The last of `_tokens` has the kind `end`.

    Python parses a copy of the text in which each name, number and string is replaced by `_` and the
    index of its token, so that Python's rules for literals and keywords do not apply.
    """

    def __init__(self, text: str, words: Vocabulary) -> None:
        self._text = text
        self._words = words
        self._tokens = list(self._split())

    def parse(self) -> Expression:
        self._check_neighbours()
        parts = [f"_{i}" if t.kind in _VALUES else t.text for i, t in enumerate(self._tokens)]
        starts = [sum(len(part) + 1 for part in parts[:i]) for i in range(len(parts))]
        try:
            tree = ast.parse(" ".join(parts[:-1]), mode="eval")
        except SyntaxError as error:
            end = len(self._tokens) - 1
            at = bisect_left(starts, error.offset - 1, hi=end) if error.offset else end
            raise self._error_after(at) from None
        return self._condition(tree.body)

    def _split(self) -> Iterator[_Token]:
        at = 0
        while match := _TOKEN.match(self._text, at):
            kind = str(match.lastgroup)
            yield _Token(kind, match[kind], match.start(kind))
            at = match.end()
        rest = self._text[at:].lstrip()
        end = len(self._text) - len(rest)
        yield _Token("other", rest[0], end) if rest else _Token("end", "", len(self._text))

    def _check_neighbours(self) -> None:
        """Check that brackets match, and that no two values are adjacent."""
        opened: list[str] = []
        for i, token in enumerate(self._tokens):
            before = self._tokens[i - 1] if i else _Token("word", "", 0)
            follows_value = before.kind in _VALUES or before.text in (")", "]")
            if token.kind == "other" or (follows_value and token.kind in _VALUES):
                raise self._error_after(i)
            if token.text == "(" and follows_value:
                raise self._error(i, "a comparison, 'and' or 'or'")
            if token.kind == "sign" and token.text in "([":
                opened.append(_CLOSING[token.text])
                if len(opened) > _DEPTH_LIMIT:
                    raise self._error(i, f"at most {_DEPTH_LIMIT} brackets in one another")
            elif token.kind == "sign" and token.text in ")]":
                if not opened or opened.pop() != token.text:
                    raise self._error(i, _END)
            elif token.kind == "end" and opened:
                raise self._error(i, repr(opened[-1]))

    def _condition(self, node: ast.expr) -> Expression:
        match node:
            case ast.BoolOp(op=op, values=values):
                return Combination(tuple(map(self._condition, values)), isinstance(op, ast.And))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                name, kind, pattern = self._subject(left)
                return Comparison(name, _SIGNS[type(op)], self._limit(right), kind, pattern)
            case ast.Compare(comparators=[first, *_]):
                raise self._error(self._index(first) + 1, _END)
            case ast.Attribute():
                name, kind, pattern = self._subject(node)
                if name in self._words.counts:
                    return Comparison(name, ">", 0.0, kind, pattern)
        self._subject(node)
        last = node.attr if isinstance(node, ast.Attribute) else f"_{self._index(node)}"
        raise self._error_after(int(last[1:]) + 1)

    def _subject(self, node: ast.expr) -> tuple[str, str, str | None]:
        """Return the left side of a comparison: name or quantity, kind, pattern."""
        match node:
            case ast.Name() if self._token(node).kind == "name" and self._token(node).text != "any":
                return self._named(node), "", None
            case ast.Name() if self._token(node).text == "any":
                raise self._error(self._index(node) + 1, "'.'")
            case ast.Attribute(value=ast.Name() as kind, attr=attr):
                return self._quantity(kind, attr), self._token(kind).text, None
            case ast.Attribute(value=ast.Subscript(value=ast.Name() as kind, slice=key), attr=attr):
                quantity = self._quantity(kind, attr)
                if not isinstance(key, ast.Name) or self._token(key).kind != "string":
                    raise self._error(self._index(key), _PATTERN)
                pattern = self._token(key).text[1:-1]
                check_pattern(pattern)
                return quantity, self._token(kind).text, pattern
            case ast.Subscript(slice=key):
                raise self._error(self._index(key) + 2, "'.'")
        raise self._error(self._index(node), self._name_expected())

    def _named(self, node: ast.Name) -> str:
        name = self._token(node).text
        if self._words.names and name not in self._words.names:
            raise self._error(self._index(node), self._name_expected())
        return name

    def _quantity(self, node: ast.Name, attribute: str) -> str:
        kind, at = self._token(node).text, int(attribute[1:])
        if kind != "any" and kind not in self._words.kinds:
            raise self._error(self._index(node) + 1, "one of " + " ".join(COMPARISON_SIGNS))
        allowed = self._words.counts if kind == "any" else self._words.quantities
        if self._tokens[at].text not in allowed:
            raise self._error(at, "one of " + ", ".join(allowed))
        return self._tokens[at].text

    def _limit(self, node: ast.expr) -> float:
        token = self._token(node) if isinstance(node, ast.Name) else None
        if token is None or (token.kind != "number" and token.text != "inf"):
            raise self._error(self._index(node), "a number")
        return float(token.text)

    def _token(self, node: ast.Name) -> _Token:
        return self._tokens[int(node.id[1:])]

    @staticmethod
    def _index(node: ast.expr) -> int:
        """Return the index of the first token of a node, ignoring brackets."""
        return min((int(n.id[1:]) for n in ast.walk(node) if isinstance(n, ast.Name)), default=0)

    def _name_expected(self) -> str:
        if self._words.names:
            return "one of " + ", ".join(self._words.names)
        return "a name, as step, loss, any, or one of " + ", ".join(self._words.kinds)

    def _error_after(self, at: int) -> UsageError:
        """Return the error for a token that is not allowed after the previous one."""
        before = self._tokens[at - 1] if at else _Token("word", "", 0)
        if before.kind in ("name", "number", "string"):
            signs = "one of " + " ".join(COMPARISON_SIGNS)
            return self._error(at, {"name": signs, "number": _END, "string": "']'"}[before.kind])
        after = {
            ".": "one of " + ", ".join(self._words.quantities),
            "[": _PATTERN,
            "]": "'.'",
            ")": _END,
        }
        is_open = before.text == "(" or before.kind == "word"
        return self._error(at, self._name_expected() if is_open else after.get(before.text, "a number"))

    def _error(self, at: int, expected: str) -> UsageError:
        token = self._tokens[at]
        got = "the end" if token.kind == "end" else repr(token.text)
        return UsageError(
            f"not a condition: expected {expected}, got {got} at character {token.column + 1} of "
            f"{self._text!r}; {self._words.examples}"
        )
