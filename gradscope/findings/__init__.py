"""Findings: what is wrong with a run or a Function, as text and numbers, and the verdict over all of them."""

from gradscope.findings.checked import Checked, NotChecked, unreported
from gradscope.findings.codes import CODES, code_of, finding
from gradscope.findings.doctor_codes import DOCTOR_CODES
from gradscope.findings.finding import Code, Confidence, Finding, Place, Severity
from gradscope.findings.plain_json import compact_json, plain_value
from gradscope.findings.verdict import VERSION, Verdict, merge_repeated

__all__ = [
    "CODES",
    "DOCTOR_CODES",
    "VERSION",
    "Checked",
    "Code",
    "Confidence",
    "Finding",
    "NotChecked",
    "Place",
    "Severity",
    "Verdict",
    "code_of",
    "compact_json",
    "finding",
    "merge_repeated",
    "plain_value",
    "unreported",
]
