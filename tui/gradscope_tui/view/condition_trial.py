"""What a breakpoint or a rule would have done in the past steps that this viewer has."""

import math
from collections.abc import Iterator, Sequence

from gradscope.errors import GradscopeError
from gradscope.names import counted, match_names
from gradscope.protocol import RuleSetting
from gradscope.rules import Condition, Rule, StepView, make_rule, parse_condition, replay_rules
from gradscope_tui.store.run import RunStore

__all__ = ["condition_problem", "past_text", "rule_of", "rule_past_text"]

_SHOWN = 6
_SCALARS = 600


def condition_problem(text: str, store: RunStore) -> str:
    """Return why a condition cannot be set, with what is expected; empty if it can."""
    try:
        parse_condition(text).check_layers([layer.name for layer in store.tree.layers])
    except GradscopeError as error:
        return str(error)
    return ""


def past_text(text: str, store: RunStore) -> str:
    """Return a sentence on the past steps at which a valid condition became true and would have paused the training."""
    condition = parse_condition(text)
    if condition.is_of_steps_only:
        return "It depends on the step number only."
    views = list(_observed(store) if condition.needs_columns else _logged(store))
    which = "observed steps" if condition.needs_columns else "steps with scalars"
    if not views:
        return f"There are no past {which} to try it on yet."
    span = f"the {len(views):,} {which} {views[0].step:,} to {views[-1].step:,}"
    hits = _hits(condition, views)
    if not hits:
        return f"It would not have paused in {span}."
    steps = ", ".join(f"{step:,}" for step, _ in hits[-_SHOWN:])
    earlier = f" and {counted(len(hits) - _SHOWN, 'time')} before" if len(hits) > _SHOWN else ""
    step, why = hits[-1]
    return f"It would have paused at {steps}{earlier}, of {span}. At {step:,}: {why}."


def rule_of(setting: RuleSetting, store: RunStore) -> Rule:
    """Create the rule from its settings. Raises GradscopeError if they are invalid."""
    names = [layer.name for layer in store.tree.layers]
    threshold: float | tuple[float, float] | None
    match setting.threshold:
        case ():
            threshold = None
        case (low, high):
            threshold = low, high
        case _:
            threshold = setting.threshold[0]
    rule = make_rule(
        setting.rule,
        threshold=threshold,
        patience=setting.patience,
        layers=match_names(setting.layers, names) if setting.layers else None,
    )
    if rule.condition is not None:
        rule.condition.check_layers(names)
    return rule


def rule_past_text(rule: Rule, store: RunStore) -> str:
    """Return at which past steps a new rule would have reported something, by the code that runs in the training."""
    observed = list(_observed(store)) if rule.kind.reads_columns else []
    logged = list(_logged(store)) if rule.kind.reads_scalars else []
    views = sorted([*observed, *logged], key=lambda view: (view.step, view.block is None))
    which = "observed steps" if rule.kind.reads_columns else "steps with scalars"
    count = len(observed) if rule.kind.reads_columns else len(logged)
    if not count:
        return f"There are no past {which} to try it on yet."
    span = f"the {count:,} {which} {views[0].step:,} to {views[-1].step:,}"
    alerts = list(replay_rules(views, [rule]))
    steps = sorted({alert.step for alert in alerts})
    if not steps:
        return f"It would not have reported anything in {span}."
    shown = ", ".join(f"{step:,}" for step in steps[-_SHOWN:])
    earlier = f" and {counted(len(steps) - _SHOWN, 'time')} before" if len(steps) > _SHOWN else ""
    return (
        f"It would have reported at {shown}{earlier}, of {span}. At {steps[-1]:,}: {alerts[-1].text}."
    )


def _hits(condition: Condition, views: Sequence[StepView]) -> list[tuple[int, str]]:
    """Return the steps in which the condition became true, and why; it triggers again only after it was false."""
    hits: list[tuple[int, str]] = []
    was_true = False
    for view in views:
        why = condition.evaluate(view)
        if why is not None and not was_true:
            hits.append((view.step, why))
        was_true = why is not None
    return hits


def _observed(store: RunStore) -> Iterator[StepView]:
    layers = [layer.name for layer in store.tree.layers]
    types = [layer.type for layer in store.tree.layers]
    scalars = _scalars_by_step(store)
    for step, block in store.past_blocks:
        yield StepView(step, layers, block, scalars=scalars.get(step), types=types)


def _logged(store: RunStore) -> Iterator[StepView]:
    for step, values in sorted(_scalars_by_step(store).items()):
        yield StepView(step, (), None, scalars=values)


def _scalars_by_step(store: RunStore) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for name in store.scalars.names:
        steps, values = store.scalars.series(name, _SCALARS)
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            if not math.isnan(value):
                found.setdefault(step, {})[name] = value
    return found
