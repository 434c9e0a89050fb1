"""Rules: checks over the statistics of observed steps, and conditions for breakpoints."""

from gradscope.rules.actions import ACTIONS, check_action, possible_actions
from gradscope.rules.alerts import Alert, RuleFinding
from gradscope.rules.checks.losses import is_loss
from gradscope.rules.checks.replicas import RankRows, ReplicaCheck
from gradscope.rules.checks.resume import EarlierRun, FirstSteps, StepOfRun, find_resume_mismatch
from gradscope.rules.checks.updates import GREATEST_RATE, LEAST_RATE, WEIGHT_DECAY
from gradscope.rules.conditions import Condition, parse_condition
from gradscope.rules.rank_numbers import RankNumbers, numbers_of_ranks
from gradscope.rules.replay import replay_rules, views_of
from gradscope.rules.rule import Rule, default_rules, finding_of, make_rule
from gradscope.rules.step_view import StepView
from gradscope.rules.table import RULES, RuleKind, rule_kind

__all__ = [
    "ACTIONS",
    "GREATEST_RATE",
    "LEAST_RATE",
    "RULES",
    "WEIGHT_DECAY",
    "Alert",
    "Condition",
    "EarlierRun",
    "FirstSteps",
    "RankNumbers",
    "RankRows",
    "ReplicaCheck",
    "Rule",
    "RuleFinding",
    "RuleKind",
    "StepOfRun",
    "StepView",
    "check_action",
    "default_rules",
    "find_resume_mismatch",
    "finding_of",
    "is_loss",
    "make_rule",
    "numbers_of_ranks",
    "parse_condition",
    "possible_actions",
    "replay_rules",
    "rule_kind",
    "views_of",
]
