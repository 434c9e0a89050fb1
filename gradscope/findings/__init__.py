"""Findings: what is wrong with a run, in words and numbers, and the verdict over all of them."""

from gradscope.findings.codes import CODES, Code, code_of
from gradscope.findings.finding import Confidence, Finding, Place, Severity
from gradscope.findings.verdict import Verdict

__all__ = ["CODES", "Code", "Confidence", "Finding", "Place", "Severity", "Verdict", "code_of"]
