"""Changing gradients: which interventions there are, and which are in force."""

from gradscope.intervene.actions import (
    ACTIONS,
    SITES,
    Action,
    Argument,
    check_action,
    check_arguments,
    check_site,
)
from gradscope.intervene.ledger import VANISHED_AFTER_S, Applied, End, Entry, Ledger

__all__ = [
    "ACTIONS",
    "SITES",
    "VANISHED_AFTER_S",
    "Action",
    "Applied",
    "Argument",
    "End",
    "Entry",
    "Ledger",
    "check_action",
    "check_arguments",
    "check_site",
]
