"""An intervention as the lines of Python that make it permanent in a script.

The first line does the same through a Scope. The second, where there is one, needs no Scope: a module
of `gradscope.nn` on a hook, or plain PyTorch before the optimizer steps.
"""

from collections.abc import Callable, Sequence

from gradscope.protocol import ActionInfo, InterventionState, Schedule

__all__ = ["python_lines"]

_METHODS = (
    "reverse", "scale", "clip", "clamp", "stop", "noise", "replace_nonfinite", "straight_through",
    "scale_activation", "clamp_activation", "zero_activation", "noise_activation", "round_activation",
)  # fmt: skip
"""The interventions that a Scope has a method for."""

_MODULES: dict[str, Callable[[InterventionState], str]] = {
    "reverse": lambda s: f"GradientReversal({s.arguments['alpha']!r})",
    "scale": lambda s: f"GradientScale({s.arguments['factor']!r})",
    "clip": lambda s: f"GradientClip({_number(s.arguments['max_norm'])})",
    "clamp": lambda s: f"GradientClamp({_number(s.arguments['limit'])})",
    "stop": lambda _: "StopGradient()",
    "noise": lambda s: (
        f"GradientNoise({s.arguments['std']!r}, {int(s.arguments.get('seed', 0))}, "
        f"is_relative={bool(s.arguments.get('relative', 0))})"
    ),
    "replace_nonfinite": lambda s: f"GradientReplaceNonfinite({s.arguments['value']!r})",
}

_ON_PARAMETERS: dict[str, Callable[[InterventionState], str]] = {
    "reverse": lambda s: f"p.grad.mul_(-{s.arguments['alpha']!r})",
    "scale": lambda s: f"p.grad.mul_({s.arguments['factor']!r})",
    "clip": lambda s: f"torch.nn.utils.clip_grad_norm_(p, {_number(s.arguments['max_norm'])})",
    "clamp": lambda s: (
        f"p.grad.clamp_(-{_number(s.arguments['limit'])}, {_number(s.arguments['limit'])})"
    ),
    "stop": lambda _: "p.grad.zero_()",
    "replace_nonfinite": lambda s: "p.grad.nan_to_num_({0!r}, {0!r}, {0!r})".format(
        s.arguments["value"]
    ),
}


def python_lines(state: InterventionState, actions: Sequence[ActionInfo] = ()) -> tuple[str, ...]:
    """Return the lines, as `scope.clip("fc1", max_norm=1.0)`. `actions` tell the types of arguments."""
    lines = [_scope_line(state, actions)]
    if state.schedule is None and state.choices.get("per", "tensor") == "tensor":
        lines += _lines_without_scope(state)
    return tuple(lines)


def _scope_line(state: InterventionState, actions: Sequence[ActionInfo]) -> str:
    given = _arguments(state, actions)
    how = [f"site={state.site!r}"] if state.site != "output" else []
    how += _when(state.schedule)
    layers = repr(state.layers[0]) if len(state.layers) == 1 else repr(list(state.layers))
    if state.action in _METHODS:
        keywords = [f"{name}={value}" for name, value in given.items()]
        return f"scope.{state.action}({', '.join([layers, *keywords, *how])})"
    inner = ", ".join(f"{name!r}: {value}" for name, value in given.items())
    keywords = [f"arguments={{{inner}}}"] if given else []
    return f"scope.intervene({', '.join([layers, repr(state.action), *keywords, *how])})"


def _arguments(state: InterventionState, actions: Sequence[ActionInfo]) -> dict[str, str]:
    known = next((action.arguments for action in actions if action.name == state.action), ())
    kinds = {argument.name: argument.kind for argument in known}
    given = {name: _typed(value, kinds.get(name, "number")) for name, value in state.arguments.items()}
    return given | {name: repr(text) for name, text in state.choices.items()}


def _typed(value: float, kind: str) -> str:
    if kind == "yes":
        return str(bool(value))
    return str(int(value)) if kind == "whole" else _number(value)


def _number(value: float) -> str:
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


def _lines_without_scope(state: InterventionState) -> list[str]:
    names = list(state.layers)
    each = "" if len(names) == 1 else f"for name in {names!r}: "
    module = f"model.get_submodule({names[0]!r})" if len(names) == 1 else "model.get_submodule(name)"
    if state.site == "params":
        if state.action not in _ON_PARAMETERS:
            return []
        change = _ON_PARAMETERS[state.action](state)
        below = f"for p in {{p for n in {names!r} for p in model.get_submodule(n).parameters()}}: "
        return [f"{below}{change}  # before optimizer.step()"]
    if state.action not in _MODULES:
        return []
    change = f"change=gradscope.nn.{_MODULES[state.action](state)}"
    if state.site == "input":
        hook = f"lambda module, args, {change}: tuple(change(x) for x in args)"
        return [f"{each}{module}.register_forward_pre_hook({hook})"]
    hook = f"lambda module, args, output, {change}: change(output)"
    return [f"{each}{module}.register_forward_hook({hook})"]
