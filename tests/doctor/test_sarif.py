"""Reports as SARIF, compared with the objects that the standard defines."""

import json
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from gradscope.doctor import Report
from gradscope.doctor.report.sarif import sarif_log
from gradscope.findings import DOCTOR_CODES, finding

Level = Literal["none", "note", "warning", "error"]


class Strict(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An object of SARIF 2.1.0: a field without a default is one that the standard or GitHub requires.

    Written after sections 3.11 to 3.52 of the standard, which close every object except a property bag.
    """


class Message(Strict):
    text: str


class ArtifactLocation(Strict):
    uri: str


class Region(Strict):
    start_line: int


class PhysicalLocation(Strict):
    artifact_location: ArtifactLocation
    region: Region


class LogicalLocation(Strict):
    name: str
    kind: str


class Location(Strict):
    physical_location: PhysicalLocation
    logical_locations: list[LogicalLocation]


class Result(Strict):
    rule_id: str
    rule_index: int
    level: Level
    message: Message
    locations: list[Location]
    partial_fingerprints: dict[str, str]
    properties: dict[str, object]


class Configuration(Strict):
    level: Level


class Rule(Strict):
    id: str
    short_description: Message
    help: Message
    default_configuration: Configuration


class Driver(Strict):
    name: str
    semantic_version: str
    rules: list[Rule]


class Tool(Strict):
    driver: Driver


class Notification(Strict):
    level: Level
    message: Message


class Invocation(Strict):
    execution_successful: bool
    tool_execution_notifications: list[Notification]


class Run(Strict):
    tool: Tool
    column_kind: Literal["utf16CodeUnits", "unicodeCodePoints"]
    invocations: list[Invocation]
    results: list[Result]


class Log(Strict):
    version: Literal["2.1.0"]
    runs: list[Run]
    schema: str = msgspec.field(name="$schema")


def run_of(*reports, path="functions.py"):
    """Return the only run of the log, after a round trip through JSON."""
    text = json.dumps(sarif_log(reports, path), allow_nan=False)
    (run,) = msgspec.json.decode(text, type=Log).runs
    return run


def test_each_code_is_a_rule_with_meaning_help_and_level():
    rules = run_of().tool.driver.rules
    assert [rule.id for rule in rules] == list(DOCTOR_CODES)
    for rule, code in zip(rules, DOCTOR_CODES.values(), strict=True):
        assert rule.short_description.text.lower().startswith(code.meaning.lower())
        assert code.fix[1:] in rule.help.text
        assert rule.default_configuration.level == {"hint": "note"}.get(code.severity, code.severity)


def test_a_finding_is_a_result_at_its_line_with_its_cause_fix_and_consequences():
    found = [
        finding("wrong-gradient-sign", "the sign is flipped", where="models/my file.py:12"),
        finding("graph-broken", "the graph is cut"),
        finding("input-returned-as-is", "it returns x", evidence={"largest": float("inf")}),
    ]
    first, second = run_of(Report.of("Swish", found)).results
    assert (first.rule_id, first.level, second.level) == ("wrong-gradient-sign", "error", "note")
    assert first.message.text == (
        "The sign is flipped. Cause: a minus sign is missing, or there is one too many (as in the derivative of a "
        "difference by its second term). Fix: negate the gradient that backward returns for it. "
        "Also graph-broken: the graph is cut."
    )
    (location,) = first.locations
    assert location.physical_location.artifact_location.uri == "models/my%20file.py"
    assert location.physical_location.region.start_line == 12
    assert location.logical_locations == [LogicalLocation("Swish", "type")]
    assert second.properties == {"confidence": "measured", "evidence": {"largest": "inf"}}
    assert run_of().tool.driver.rules[first.rule_index].id == first.rule_id


@pytest.mark.parametrize(("where", "line"), [("", 1), ("functions.py:0", 1), ("functions.py:7", 7)])
def test_a_finding_without_a_line_is_at_the_beginning_of_the_file(where, line):
    (result,) = run_of(Report.of("F", [finding("forward-raises", "m", where=where)])).results
    place = result.locations[0].physical_location
    assert (place.artifact_location.uri, place.region.start_line) == ("functions.py", line)


def test_a_file_outside_of_the_working_directory_has_an_absolute_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside, outside = tmp_path / "a.py", Path(tmp_path.anchor) / "b.py"
    found = [finding("forward-raises", "m", where=f"{outside}:3"), finding("uses-data", "m")]
    results = run_of(Report.of("F", found), path=inside).results
    uris = [result.locations[0].physical_location.artifact_location.uri for result in results]
    assert uris == [outside.as_uri(), "a.py"]


def test_the_fingerprint_depends_on_file_function_and_code_and_not_on_the_line():
    def print_of(code="uses-data", line=1, name="F", path="a.py"):
        report = Report.of(name, [finding(code, "m", where=f"a.py:{line}")])
        return run_of(report, path=path).results[0].partial_fingerprints["finding/v1"]

    assert print_of(line=1) == print_of(line=90)
    others = {print_of(), print_of(code="forward-raises"), print_of(name="G"), print_of(path="b.py")}
    assert len(others) == 4


def test_what_was_not_examined_is_a_notification():
    (invocation,) = run_of(Report.of("F", notes=("not examined: no batch",))).invocations
    assert [each.message.text for each in invocation.tool_execution_notifications] == [
        "F: not examined: no batch."
    ]
