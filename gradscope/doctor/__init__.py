"""The function doctor: finds faults in custom autograd Functions, and reports their place, cause and fix."""

from gradscope.doctor.child_process import examine_file_isolated
from gradscope.doctor.examine import examine
from gradscope.doctor.files import TIMEOUT_S, examine_file
from gradscope.doctor.model import examine_model, examine_step_functions
from gradscope.doctor.report.messages import KNOWN_MESSAGES, KnownMessage, recognise
from gradscope.doctor.report.report import CheckItem, ExaminationStep, Report
from gradscope.doctor.subject.timing import Timing, time_function

__all__ = [
    "KNOWN_MESSAGES",
    "TIMEOUT_S",
    "CheckItem",
    "ExaminationStep",
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
