"""What a condition of a breakpoint would have done in the past steps that this viewer has."""

import math
from collections.abc import Iterator, Sequence

from gradscope.errors import GradscopeError
from gradscope.names import counted
from gradscope.rules import Condition, StepView, parse_condition
from gradscope_tui.store.run import RunStore

__all__ = ["condition_problem", "past_text"]

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
    """Return at which past steps a valid condition would have paused the training: where it became true."""
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
    scalars = _scalars_by_step(store)
    for step, block in store.past_blocks:
        yield StepView(step, layers, block, scalars=scalars.get(step))


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
