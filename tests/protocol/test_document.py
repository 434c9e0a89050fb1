"""README.md of the protocol is its specification: it agrees with the code, name by name."""

import re
from pathlib import Path

import msgspec
import pytest

from gradscope import protocol
from gradscope.columns import COLUMNS, INPUT_KIND, Flags
from gradscope.columns.schema import BASIC_KINDS
from gradscope.findings import Checked, Finding, NotChecked
from gradscope.protocol import limits

_PATH = Path(protocol.__file__).with_name("README.md")
_TEXT = _PATH.read_text(encoding="utf-8")

_PARTS = {
    "ActionInfo",
    "AlertInfo",
    "ChangeInfo",
    "Finding",
    "Checked",
    "NotChecked",
    "BreakpointState",
    "PauseState",
    "RuleSetting",
    "RuleState",
    "ArgumentInfo",
    "Ramp",
    "Schedule",
    "StepFacts",
    "Layer",
    "Parameter",
    "InterventionState",
    "RunInfo",
    "RankState",
}

_OF_FINDINGS = {kind.__name__: kind for kind in (Checked, Finding, NotChecked)}


def _section(heading: str) -> str:
    """Return the text under a heading, up to the next heading of any level."""
    found = re.search(rf"^{re.escape(heading)}$\n(.*?)(?=^#|\Z)", _TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"README.md lacks the section {heading!r}"
    return found[1]


def _table(section: str) -> list[list[str]]:
    """Return the cells of the body of a section's table."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _words(kind: msgspec.inspect.Type) -> str:  # noqa: PLR0911 - a table of types
    """Return the document's words for a type."""
    inspect = msgspec.inspect
    match kind:
        case inspect.IntType(ge=0):
            return "whole"
        case inspect.FloatType(gt=gt):
            return "number" if gt is None else "rate"
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "bool"
        case inspect.BytesType():
            return "bytes"
        case inspect.LiteralType(values=values):
            *others, last = (f'`"{value}"`' for value in sorted(values))
            return f"{', '.join(others)} or {last}"
        case inspect.UnionType(types=types):
            known = [_words(t) for t in types if not isinstance(t, inspect.NoneType)]
            return " or ".join(known) + ("?" if len(known) < len(types) else "")
        case inspect.TupleType(item_types=items):
            return f"({', '.join(map(_words, items))})"
        case inspect.VarTupleType(item_type=item):
            return f"[{_words(item)}]"
        case inspect.DictType(value_type=value):
            return f"{{text: {_words(value)}}}"
        case inspect.IntType():
            return "integer"
        case inspect.StructType(cls=cls) | inspect.DataclassType(cls=cls):
            return cls.__name__
    raise AssertionError(f"the document has no word for {kind}")


def _default(field: msgspec.inspect.Field) -> str:  # noqa: PLR0911 - a table of values
    if field.default_factory is not msgspec.NODEFAULT:
        return "empty"
    match field.default:
        case msgspec.NODEFAULT:
            return ""
        case None:
            return "nil"
        case bool() as value:
            return str(value).lower()
        case str() as value:
            return f'`"{value}"`'
        case () | b"":
            return "empty"
        case value:
            return str(value)


def _fields(cls: type) -> list[tuple[str, str, str]]:
    kind = msgspec.inspect.type_info(cls)
    assert isinstance(kind, msgspec.inspect.StructType | msgspec.inspect.DataclassType)
    return [(f"`{f.encode_name}`", _words(f.type), _default(f)) for f in kind.fields]


def _written(heading: str) -> list[tuple[str, ...]]:
    return [tuple(row[:3]) for row in _table(_section(heading))]


def test_the_messages_of_the_document_are_those_of_the_code(tags):
    assert sorted(re.findall(r"^### `(\w+)`$", _TEXT, re.MULTILINE)) == sorted(tags)
    assert set(re.findall(r"^#### `(\w+)`$", _TEXT, re.MULTILINE)) == _PARTS


def test_the_fields_of_each_message_are_written_down_with_type_and_default(tags):
    for tag, cls in tags.items():
        assert _written(f"### `{tag}`") == _fields(cls), tag


@pytest.mark.parametrize("name", sorted(_PARTS))
def test_the_fields_of_each_part_of_a_message_are_written_down(name: str):
    assert _written(f"#### `{name}`") == _fields(_OF_FINDINGS.get(name) or getattr(protocol, name))


def test_each_message_has_its_direction_its_reply_and_its_failure(tags):
    for tag in tags:
        section = _section(f"### `{tag}`")
        assert re.match(r"\*\*.*(agent|viewer|hub).* → .*\*\*", section), tag
        assert section.count("**Reply:**") == section.count("**Failure:**") == 1, tag


def test_the_limits_of_the_document_are_those_of_the_code():
    written = {
        row[0].strip("`"): int(row[1].replace(",", "")) for row in _table(_section("## A message"))
    }
    expected = {n: getattr(limits, n) for n in limits.__all__ if n != "PROTOCOL_VERSION"}
    assert written == expected


def test_the_version_of_the_document_is_that_of_the_code_and_has_its_line_in_the_change_log():
    (written,) = re.findall(r"\*\*Protocol version (\d+)\.\*\*", _TEXT)
    assert int(written) == protocol.PROTOCOL_VERSION
    versions = [int(row[0]) for row in _table(_section("## Change log"))]
    assert versions == list(range(1, protocol.PROTOCOL_VERSION + 1))


def test_the_change_log_is_the_last_section():
    assert re.findall(r"^## (.*)$", _TEXT, re.MULTILINE)[-1] == "Change log"


def test_every_column_and_flag_of_a_step_is_written_down():
    section = _section("### The body of a step")
    rows = {name: row for row in _table(section) for name in re.findall(r"`(\w+)`", row[0])}
    assert set(rows) == {"layer", "kind", "flags", "digest", *(c.name for c in COLUMNS)}
    for column in COLUMNS:
        assert rows[column.name][1] == ("u1 u2 u4 u8" if column.is_count else "f4 f8")
    for flag in Flags:
        assert f"{flag.value} {flag.name.lower().replace('_', ' ')}" in rows["flags"][2]


def test_every_kind_of_row_is_written_down():
    section = _section("### The kinds of a row")
    written = {name for row in _table(section) for name in re.findall(r"`(\w+)`", row[0])}
    assert written == {*BASIC_KINDS, INPUT_KIND}


def test_the_drawing_of_a_step_is_the_golden_step(step):
    section = _section("### The body of a step")
    drawn = re.search(r"^columns +(.*)$", section, re.MULTILINE)
    assert tuple(re.findall(r'\("(\w+)","(\w+)"\)', drawn[1])) == step.columns
    offsets = re.search(r"^byte +(.*)$", section, re.MULTILINE)
    ends = [0]
    for _, code in step.columns:
        ends.append(ends[-1] + step.rows * int(code[1:]))
    assert [int(n) for n in offsets[1].split()] == ends
    assert re.search(r"^zero +(.*)$", section, re.MULTILINE)[1] == " ".join(f'"{n}"' for n in step.zero)


def test_every_file_that_the_document_names_is_there():
    for name in re.findall(r"`([\w/]+\.py)`", _TEXT):
        assert (_PATH.parent / name).exists() or (_PATH.parents[2] / name).exists(), name
