"""The function doctor: finds faults in custom autograd Functions, and reports their place, cause and fix."""

from gradscope.doctor.child_process import examine_file_isolated
from gradscope.doctor.examine import examine
from gradscope.doctor.files import TIMEOUT_S, examine_file
from gradscope.doctor.model import examine_model, examine_step_functions
from gradscope.doctor.report.codes import CODES, SEVERITIES
from gradscope.doctor.report.messages import KNOWN_MESSAGES, KnownMessage, recognise
from gradscope.doctor.report.report import REPORT_VERSION, CheckItem, ExaminationStep, Finding, Report
from gradscope.doctor.subject.timing import Timing, time_function

__all__ = [
    "CODES",
    "KNOWN_MESSAGES",
    "REPORT_VERSION",
    "SEVERITIES",
    "TIMEOUT_S",
    "CheckItem",
    "ExaminationStep",
    "Finding",
    "KnownMessage",
    "Report",
    "Timing",
    "examine",
    "examine_file",
    "examine_file_isolated",
    "examine_model",
    "examine_step_functions",
    "recognise",
    "time_function",
]
