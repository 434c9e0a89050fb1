"""Interventions that the script sets and removes."""

import getpass
import os
import socket
from collections.abc import Mapping
from typing import TypedDict

from gradscope.agent.commands.intervention_commands import check_request
from gradscope.agent.interventions.handle import Intervention
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.errors import UsageError
from gradscope.hooks import LayerPatterns
from gradscope.intervene import Action, End, LedgerEntry, Ramp, all_actions, find_action
from gradscope.names import check_options
from gradscope.protocol import make_schedule

__all__ = ["ScriptInterventions", "When"]


class When(TypedDict, total=False):
    """Where and when an intervention acts. Default: on the output, in every step until it is removed.

    site: "output", "input" or "params".
    start_step: the first step in which the intervention acts.
    end_step: the first step in which it no longer acts.
    every_steps: act in every N-th step only.
    for_steps: remove the intervention after N steps.
    for_s: remove the intervention after this many seconds.
    ramp: a `Ramp`, or a string such as "alpha=0:1:1000" or "alpha=0:1:1000:dann".
    when: a condition on the tensor before the intervention, such as "norm > 10".
    """

    site: str
    start_step: int | None
    end_step: int | None
    every_steps: int
    for_steps: int | None
    for_s: float | None
    ramp: Ramp | str | None
    when: str


class ScriptInterventions:
    """Sets interventions in the current step if no layer has computed yet, otherwise in the next step."""

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        self._run = run
        self._engine = engine

    def set(
        self,
        action: str | Action,
        layers: LayerPatterns,
        arguments: Mapping[str, object],
        how: When,
    ) -> Intervention:
        """Set an intervention. Raises UsageError, or UnknownLayerError if a pattern matches nothing."""
        found = _find_action(action, layers) if isinstance(action, str) else action
        _refuse_arguments_among_options(found, how)
        check_options(how, When.__annotations__, found.spec.name)
        request = check_request(
            self._engine.tracker.modules(),
            found,
            arguments,
            layers,
            site=how.get("site", "output"),
            set_by="script",
            end=End(how.get("for_steps"), how.get("for_s")),
            schedule=make_schedule(
                start_step=how.get("start_step"),
                end_step=how.get("end_step"),
                every_steps=how.get("every_steps", 1),
                ramp=how.get("ramp"),
                when=how.get("when", ""),
            ),
            origin=f"{getpass.getuser()}@{socket.gethostname()}, pid {os.getpid()}",
        )
        entry = self._run.ledger.install(request, _ignore)
        self._engine.apply_interventions_before_computing()
        return Intervention(entry, self.remove)

    def remove(self, id: str) -> None:
        """Remove an intervention. Does nothing if the intervention is not in force."""
        if self._run.ledger.remove(id, lambda _step: None, by="script"):
            self._engine.apply_interventions_before_computing()


def _ignore(entry: LedgerEntry, step: int) -> None:
    """Do nothing: the script reads `active_since`."""


def _find_action(name: str, layers: LayerPatterns) -> Action:
    known = {action.spec.name for action in all_actions()}
    if name not in known and isinstance(layers, str) and layers in known:
        raise UsageError(
            f"expected the layers first and then the intervention, got intervene({layers!r}, {name!r}); "
            f"use intervene({name!r}, {layers!r})"
        )
    return find_action(name)


def _refuse_arguments_among_options(action: Action, how: When) -> None:
    given = set(how) - set(When.__annotations__)
    name = next((each.name for each in action.spec.arguments if each.name in given), None)
    if name is not None:
        raise UsageError(
            f"expected {name} of {action.spec.name} in `arguments`, got it as an option; "
            f'use intervene(…, "{action.spec.name}", arguments={{"{name}": …}})'
        )
