"""Reports as a SARIF 2.1.0 log (OASIS standard), which editors and forges show at the lines of the source."""

import hashlib
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from gradscope._version import __version__
from gradscope.doctor.report.report import Report
from gradscope.findings import DOCTOR_CODES, Code, Finding

__all__ = ["sarif_log"]

_SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LEVELS: Final = {"error": "error", "warning": "warning", "hint": "note"}
_RULES: Final = tuple(DOCTOR_CODES)


def sarif_log(reports: Sequence[Report], path: str | Path) -> dict[str, Any]:  # Any: what JSON takes
    """Return a log with one run: all codes as rules, and a result for each finding that no other explains.

    path: the examined file. It is the place of findings whose line is unknown, because GitHub shows only results
        that have a place.
    """
    driver = {
        "name": "gradscope doctor",
        "semanticVersion": __version__,
        "rules": [_rule(code) for code in DOCTOR_CODES.values()],
    }
    results = [
        _result(report, finding, report.verdict.consequences.get(number, ()), str(path))
        for report in reports
        for number, finding in enumerate(report.findings)
    ]
    notes = [
        {"level": "note", "message": {"text": _sentence(f"{report.name}: {note}")}}
        for report in reports
        for note in report.notes
    ]
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
        "results": results,
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: Code) -> dict[str, object]:
    return {
        "id": code.name,
        "shortDescription": {"text": _sentence(code.meaning)},
        "help": {"text": f"{_sentence(code.cause)} {_sentence(code.fix)}"},
        "defaultConfiguration": {"level": _LEVELS[code.severity]},
    }


def _result(
    report: Report, finding: Finding, consequences: Iterable[Finding], path: str
) -> dict[str, object]:
    parts = [finding.message, f"Cause: {finding.cause}", f"Fix: {finding.fix}"]
    parts += [f"Also {found.code}: {found.message}" for found in consequences]
    location = {
        "physicalLocation": _physical_location(finding.where or path),
        "logicalLocations": [{"name": report.name, "kind": "type"}],
    }
    return {
        "ruleId": finding.code,
        "ruleIndex": _RULES.index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": " ".join(map(_sentence, parts))},
        "locations": [location],
        "partialFingerprints": {"finding/v1": _fingerprint(report, finding, path)},
        "properties": {"confidence": finding.confidence, "evidence": finding.as_json()["evidence"]},
    }


def _physical_location(where: str) -> dict[str, object]:
    """Return the location for "file:line", or for a file."""
    file, _, line = where.rpartition(":")
    if not line.isdigit():
        return {"artifactLocation": {"uri": _uri(where)}, "region": {"startLine": 1}}
    return {"artifactLocation": {"uri": _uri(file)}, "region": {"startLine": max(1, int(line))}}


def _uri(file: str) -> str:
    """Return a path inside the working directory as a relative reference, another one as a URI."""
    path = Path(file).absolute()
    if path.is_relative_to(Path.cwd()):
        return urllib.parse.quote(path.relative_to(Path.cwd()).as_posix())
    return path.as_uri()


def _fingerprint(report: Report, finding: Finding, path: str) -> str:
    """Return the same text for the same finding of a file whose lines have moved."""
    return hashlib.sha256("\n".join((_uri(path), report.name, finding.code)).encode()).hexdigest()[:16]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
