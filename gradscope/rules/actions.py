"""The actions of rules: what a rule does in addition to its alert, and which actions each rule can have."""

from collections.abc import Iterator
from typing import Final

from gradscope.errors import UsageError
from gradscope.rules.rule import Rule

__all__ = ["ACTIONS", "check_action", "possible_actions"]

ACTIONS: Final = {
    "event": "report it only",
    "pause": "pause the training before the next step",
    "skip_step": "skip the optimizer's step",
    "clip": "clip the layer's gradients to the limit",
    "remove": "remove all interventions",
    "raise": "raise AlertError in the training",
    "off": "switch the rule off",
}
"""The named actions of a rule, each with its meaning. In the training process, an action can also be a callable."""


def check_action(rule: Rule, action: object, *, world_size: int) -> str:
    """Return the validated name of an action. Raises UsageError if it is unknown or not available for this rule."""
    if not isinstance(action, str) or action not in ACTIONS:
        raise UsageError(
            f"expected the action of a rule to be one of {', '.join(ACTIONS)}, or a function that takes "
            f"the alert; got {action!r}"
        )
    kind = rule.kind
    if action == "clip" and not kind.can_clip:
        raise UsageError(
            f"the action clip is not available for {rule.text}, which has no gradient norm; "
            "use it with exploding or spike"
        )
    if action == "skip_step" and (not kind.is_early or kind.reads_scalars):
        raise UsageError(
            f"the action skip_step is not available for {rule.text}: it is judged after the optimizer "
            "has stepped; use another action"
        )
    if action in ("skip_step", "clip") and world_size > 1 and not kind.is_shared:
        raise UsageError(
            f"the action {action} is not available for {rule.text} with {world_size} ranks: its values "
            "differ between ranks, so the ranks would act differently; use it with nonfinite, exploding, "
            "vanishing or spike"
        )
    if action == "off" and rule.condition is not None:
        raise UsageError(
            f"the action off is not available for the condition {rule.text}: it has no rule to switch off; "
            "remove it instead"
        )
    return action


def possible_actions(rule: Rule, *, world_size: int = 1) -> Iterator[str]:
    """Yield the named actions that a rule can have."""
    for action in ACTIONS:
        try:
            yield check_action(rule, action, world_size=world_size)
        except UsageError:
            continue
