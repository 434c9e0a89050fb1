"""Interventions: functions that change gradients and activations, and the ledger of active ones."""

from gradscope.intervene.actions import ACTIONS, Action
from gradscope.intervene.active import ActiveIntervention, Unit
from gradscope.intervene.audit_log import AuditEntry, AuditLog
from gradscope.intervene.condition import STATISTICS, parse_condition
from gradscope.intervene.custom import (
    OwnFunction,
    action_of,
    all_actions,
    find_action,
    register_action,
)
from gradscope.intervene.ledger import VANISHED_AFTER_S, End, InterventionRequest, Ledger, LedgerEntry
from gradscope.intervene.schedule import check_schedule
from gradscope.protocol import Ramp, Schedule, parse_ramp

__all__ = [
    "ACTIONS",
    "STATISTICS",
    "VANISHED_AFTER_S",
    "Action",
    "ActiveIntervention",
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
    "action_of",
    "all_actions",
    "check_schedule",
    "find_action",
    "parse_condition",
    "parse_ramp",
    "register_action",
]
