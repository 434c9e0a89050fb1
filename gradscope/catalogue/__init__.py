"""The interventions and commands of gradscope as data, and the language of conditions."""

from gradscope.catalogue.arguments import Argument, Arguments, Suggestion, Value, check_arguments
from gradscope.catalogue.commands import CommandName
from gradscope.catalogue.interventions import (
    COMMON,
    INTERVENTIONS,
    SCOPE_METHODS,
    SITES,
    InterventionSpec,
    check_site,
)

__all__ = [
    "COMMON",
    "INTERVENTIONS",
    "SCOPE_METHODS",
    "SITES",
    "Argument",
    "Arguments",
    "CommandName",
    "InterventionSpec",
    "Suggestion",
    "Value",
    "check_arguments",
    "check_site",
]
