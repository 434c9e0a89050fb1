"""Generates the Python code that makes an intervention permanent in a script.

The first line uses a Scope. The second line, if there is one, works without a Scope: a module of
`gradscope.nn` in a hook, or plain PyTorch code before the optimizer steps.
"""

from collections.abc import Sequence

from gradscope.catalogue import INTERVENTIONS, SCOPE_METHODS
from gradscope.protocol import ActionInfo, InterventionState, Schedule

__all__ = ["python_lines"]


def python_lines(state: InterventionState, actions: Sequence[ActionInfo] = ()) -> tuple[str, ...]:
    """Return the lines of code, such as `scope.clip("fc1", max_norm=1.0)`.

    `actions` are the interventions of the run, which include the argument types of the script's own
    ones.
    """
    given = _arguments(state, actions)
    lines = [_scope_line(state, given)]
    if state.schedule is None and state.choices.get("per", "tensor") == "tensor":
        lines += _lines_without_scope(state, given)
    return tuple(lines)


def _scope_line(state: InterventionState, given: dict[str, str]) -> str:
    how = [f"site={state.site!r}"] if state.site != "output" else []
    how += _when(state.schedule)
    layers = repr(state.layers[0]) if len(state.layers) == 1 else repr(list(state.layers))
    if state.action in SCOPE_METHODS:
        keywords = [f"{name}={value}" for name, value in given.items()]
        return f"scope.{state.action}({', '.join([layers, *keywords, *how])})"
    inner = ", ".join(f"{name!r}: {value}" for name, value in given.items())
    keywords = [f"arguments={{{inner}}}"] if given else []
    return f"scope.intervene({', '.join([layers, repr(state.action), *keywords, *how])})"


def _arguments(state: InterventionState, actions: Sequence[ActionInfo]) -> dict[str, str]:
    own = next((action.arguments for action in actions if action.name == state.action), ())
    spec = INTERVENTIONS.get(state.action)
    kinds = {argument.name: argument.kind for argument in (spec.arguments if spec else own)}
    given = {name: _typed(value, kinds.get(name, "number")) for name, value in state.arguments.items()}
    return given | {name: repr(text) for name, text in state.choices.items()}


def _typed(value: float, kind: str) -> str:
    if kind == "yes":
        return str(bool(value))
    if kind == "whole":
        return str(int(value))
    return f'float("{value}")' if value in (float("inf"), -float("inf")) else repr(value)


def _when(schedule: Schedule | None) -> list[str]:
    if schedule is None:
        return []
    steps = {"start_step": schedule.start_step, "end_step": schedule.end_step}
    words = [f"{name}={step}" for name, step in steps.items() if step is not None]
    if schedule.every_steps != 1:
        words.append(f"every_steps={schedule.every_steps}")
    if (ramp := schedule.ramp) is not None:
        text = f"{ramp.argument}={ramp.start!r}:{ramp.end!r}:{ramp.steps}"
        words.append(f"ramp={text + ('' if ramp.shape == 'linear' else f':{ramp.shape}')!r}")
    if schedule.condition:
        words.append(f"when={schedule.condition!r}")
    return words


def _lines_without_scope(state: InterventionState, given: dict[str, str]) -> list[str]:
    spec = INTERVENTIONS.get(state.action)
    template = "" if spec is None else spec.on_parameters if state.site == "params" else spec.module
    if not template:
        return []
    change = template.format(**given)
    names = list(state.layers)
    each = "" if len(names) == 1 else f"for name in {names!r}: "
    module = f"model.get_submodule({names[0]!r})" if len(names) == 1 else "model.get_submodule(name)"
    if state.site == "params":
        below = f"for p in {{p for n in {names!r} for p in model.get_submodule(n).parameters()}}: "
        return [f"{below}{change}  # before optimizer.step()"]
    change = f"change=gradscope.nn.{change}"
    if state.site == "input":
        hook = f"lambda module, args, {change}: tuple(change(x) for x in args)"
        return [f"{each}{module}.register_forward_pre_hook({hook})"]
    hook = f"lambda module, args, output, {change}: change(output)"
    return [f"{each}{module}.register_forward_hook({hook})"]
