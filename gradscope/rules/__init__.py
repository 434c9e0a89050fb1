"""Rules over the columns: what is not well in an observed step, and conditions that a person writes."""

from gradscope.rules.alerts import Alert, Finding
from gradscope.rules.conditions import Condition, parse_condition
from gradscope.rules.losses import is_loss
from gradscope.rules.patterns import matching_names
from gradscope.rules.replay import readings_of, run_over
from gradscope.rules.rule import Rule
from gradscope.rules.step_view import StepView
from gradscope.rules.table import RULES, RuleKind, default_rules, kind_of

__all__ = [
    "RULES",
    "Alert",
    "Condition",
    "Finding",
    "Rule",
    "RuleKind",
    "StepView",
    "default_rules",
    "is_loss",
    "kind_of",
    "matching_names",
    "parse_condition",
    "readings_of",
    "run_over",
]
