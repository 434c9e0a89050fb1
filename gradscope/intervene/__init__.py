"""Changing gradients and activations: which interventions there are, and which are in force."""

from gradscope.intervene.actions import ACTIONS, SITES, Action, check_site
from gradscope.intervene.active import ActiveIntervention, Unit
from gradscope.intervene.arguments import Argument, Value, check_arguments
from gradscope.intervene.audit_log import AuditEntry, AuditLog
from gradscope.intervene.condition import STATISTICS, parse_condition
from gradscope.intervene.custom import (
    OwnFunction,
    action_of,
    all_actions,
    check_action,
    register_action,
)
from gradscope.intervene.ledger import VANISHED_AFTER_S, End, InterventionRequest, Ledger, LedgerEntry
from gradscope.intervene.schedule import check_schedule
from gradscope.protocol import Ramp, Schedule, parse_ramp

__all__ = [
    "ACTIONS",
    "SITES",
    "STATISTICS",
    "VANISHED_AFTER_S",
    "Action",
    "ActiveIntervention",
    "Argument",
    "AuditEntry",
    "AuditLog",
    "End",
    "InterventionRequest",
    "Ledger",
    "LedgerEntry",
    "OwnFunction",
    "Ramp",
    "Schedule",
    "Unit",
    "Value",
    "action_of",
    "all_actions",
    "check_action",
    "check_arguments",
    "check_schedule",
    "check_site",
    "parse_condition",
    "parse_ramp",
    "register_action",
]
