"""The commands that pause a training, inspect it, wait for it, and restore it."""

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from gradscope.cli.connection import connect_to, typed_run
from gradscope.cli.options import Json, Run, Timeout
from gradscope.cli.output import print_json, print_lines, print_result, table_lines
from gradscope.errors import GradscopeError, UsageError

__all__ = ["register"]

Lease: TypeAlias = Annotated[
    float,
    typer.Option(
        "--lease", metavar="SECONDS", help="Training resumes by itself after this time, 300 at most."
    ),
]

_FOCUS_NUMBERS = (
    ("out", "std", "std"),
    ("grad", "norm", "|∇out|"),
    ("param_grad", "norm", "|∇w|"),
    ("update", "norm", "|Δw|"),
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    stopping = (pause, resume, step, break_, unbreak, breakpoints)
    for function in (*stopping, rule, unrule, rules, wait, capture, focus, undo):
        app.command(function.__name__.rstrip("_"))(function)


def pause(run: Run, lease: Lease = 60.0, timeout: Timeout = 30.0, json: Json = False) -> None:
    """Pause a training after the current step. A second call renews the pause.

    Example: gradscope pause RUN --lease 120
    """
    with connect_to(run) as client:
        ack = client.pause(lease_s=lease, timeout_s=timeout)
    print_result(
        {"run": run, "step": ack.step, "lease_s": lease},
        json,
        f"paused before step {ack.step}; continues by itself in {lease:g} s",
        f"renew it with: gradscope pause {typed_run(run)}    go on with: gradscope resume {typed_run(run)}",
    )


def resume(run: Run, timeout: Timeout = 30.0, json: Json = False) -> None:
    """Continue a paused training.

    Example: gradscope resume RUN
    """
    with connect_to(run) as client:
        ack = client.resume(timeout_s=timeout)
    print_result({"run": run, "step": ack.step}, json, f"continues with step {ack.step}")


def step(run: Run, lease: Lease = 60.0, timeout: Timeout = 30.0, json: Json = False) -> None:
    """Run one step of a paused training, and pause again before the next step.

    Example: gradscope step RUN
    """
    with connect_to(run) as client:
        ack = client.step_once(lease_s=lease, timeout_s=timeout)
    print_result(
        {"run": run, "step": ack.step, "lease_s": lease},
        json,
        f"step {ack.step} has run; paused before the next, continues by itself in {lease:g} s",
    )


def break_(
    run: Run,
    condition: Annotated[
        str,
        typer.Argument(
            metavar="CONDITION", help="'loss > 10', any.nan, 'grad[\"fc*\"].norm > 100', 'step == 500'."
        ),
    ],
    lease: Lease = 60.0,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Set a breakpoint: pause a training if a condition becomes true.

    A condition on layers is checked in observed steps only.

    Example: gradscope break RUN 'loss > 10'
    """
    with connect_to(run) as client:
        id = client.breakpoint(condition, lease_s=lease, timeout_s=timeout)
    print_result(
        {"run": run, "id": id, "condition": condition},
        json,
        f"{id}: pauses when {condition}",
        f"remove it with: gradscope unbreak {typed_run(run)} {id}",
    )


def unbreak(
    run: Run,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Default: all of them.")] = None,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Remove a breakpoint.

    Example: gradscope unbreak RUN break-1
    """
    with connect_to(run) as client:
        ack = client.remove_breakpoint(id or "", timeout_s=timeout)
    document = {"run": run, "step": ack.step, "id": id}
    print_result(document, json, f"{id or 'all breakpoints'}: removed")


def breakpoints(run: Run, json: Json = False) -> None:
    """List the breakpoints of a run."""
    with connect_to(run, want="observe") as client:
        there = client.breakpoints()
    if json:
        fields = ("id", "condition", "hits", "set_by")
        found = [{field: getattr(each, field) for field in fields} for each in there]
        print_json({"run": run, "breakpoints": found})
    elif there:
        rows = [(each.id, each.condition, str(each.hits), each.set_by) for each in there]
        print_lines(*table_lines(("ID", "CONDITION", "HITS", "SET BY"), rows))
    else:
        print_lines("no breakpoint is set")


def rule(  # noqa: PLR0917 - the options of the command
    run: Run,
    rule: Annotated[
        str,
        typer.Argument(metavar="RULE", help="A rule, such as exploding, or a condition: 'loss > 10'."),
    ],
    action: Annotated[
        Literal["event", "pause", "skip_step", "clip", "remove", "off"],
        typer.Option("--action", help="What to do if it reports; off switches the rule off."),
    ] = "event",
    threshold: Annotated[
        str,
        typer.Option("--threshold", metavar="LIMIT", help="A number, or MINIMUM:MAXIMUM for a range."),
    ] = "",
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", metavar="N", min=1, help="It must hold in N observed steps in a row."
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="PATTERN", help="Only these layers. Can be repeated."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="S", help="Remove it after this time.")
    ] = None,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Set a rule, which replaces the one of the same name and layers. It stays until it is removed.

    Example: gradscope rule RUN exploding --threshold 100 --action clip
    """
    limits = _limits_of(threshold)
    with connect_to(run) as client:
        id = client.rule(
            rule,
            action=action,
            threshold=limits,
            patience=patience,
            layers=layers or (),
            end_s=seconds,
            is_kept=seconds is None,
            timeout_s=timeout,
        )
    print_result(
        {"run": run, "id": id, "rule": rule, "action": action},
        json,
        f"{id}: {rule}, action {action}",
        f"remove it with: gradscope unrule {typed_run(run)} {id}",
    )


def unrule(
    run: Run,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Default: all of them.")] = None,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Remove a rule that a viewer has set; what was before it is active again.

    Example: gradscope unrule RUN rule-1
    """
    with connect_to(run) as client:
        ack = client.remove_rule(id or "", timeout_s=timeout)
    document = {"run": run, "step": ack.step, "id": id}
    print_result(document, json, f"{id or 'all rules of viewers'}: removed")


def rules(run: Run, json: Json = False) -> None:
    """List the rules that the script and viewers have set."""
    import msgspec  # noqa: PLC0415 - --help must not load it

    from gradscope.protocol import rule_in_words  # noqa: PLC0415 - loads msgspec

    with connect_to(run, want="observe") as client:
        there = client.rules()
    if json:
        print_json({"run": run, "rules": [msgspec.to_builtins(each) for each in there]})
    elif there:
        titles = ("ID", "RULE", "ACTION", "REPORTS", "SET BY", "ENDS")
        rows = [
            (
                each.id,
                rule_in_words(each.setting),
                each.setting.action,
                str(each.reports),
                each.set_by,
                each.end or "if removed",
            )
            for each in there
        ]
        print_lines(*table_lines(titles, rows))
    else:
        print_lines("no rule is set; all rules have their defaults")


def _limits_of(text: str) -> float | tuple[float, float] | None:
    try:
        numbers = [float(part) for part in text.split(":")] if text else []
    except ValueError:
        numbers = [0.0] * 3
    if len(numbers) > 2:
        raise UsageError(f"expected a number or MINIMUM:MAXIMUM as --threshold, got {text!r}")
    return None if not numbers else numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def wait(
    run: Run,
    until: Annotated[
        str,
        typer.Option("--until", help="alert, alert=RULE, nan, step=N, or done (the run has ended)."),
    ] = "done",
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Stop waiting after this time.")
    ] = None,
    notify: Annotated[
        bool,
        typer.Option("--notify", help="Ring the terminal's bell at the end, if there is a terminal."),
    ] = False,
    json: Json = False,
) -> None:
    """Wait for an event in a run, such as a NaN, a step, or the end of the run.

    Exit code 0: the event has happened. 1: the run ended before it, or the time was over. 5: the run
    failed: by an exception, an exit code other than 0, or because its process was killed.

    Example: gradscope wait RUN --until nan --timeout 600
    """
    from gradscope.cli.commands.wait import wait_for  # noqa: PLC0415 - loads zmq

    raise typer.Exit(wait_for(run, until, timeout_s=timeout, as_json=json, notifies=notify))


def capture(
    run: Run,
    layer: Annotated[
        str, typer.Argument(metavar="LAYER", help="The layer's name, or a pattern.", show_default=False)
    ] = "",
    what: Annotated[
        Literal["activation", "gradient", "param_grad"],
        typer.Option("--what", help="The layer's output, the gradient there, or of its parameters."),
    ] = "activation",
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Ends in .npy or .safetensors.")
    ] = None,
    fault: Annotated[
        bool,
        typer.Option("--fault", help="Save the newest NaN instead, for python -m gradscope.replay."),
    ] = False,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Print whole tensors of a layer from the next step, and optionally save them.

    Example: gradscope capture RUN fc1 --what gradient --save fc1.npy
    """
    from gradscope.cli.commands import capture as capture_command  # noqa: PLC0415 - loads zmq

    if fault == bool(layer):
        raise UsageError(
            "expected either a layer or --fault, got both"
            if fault
            else "expected a layer or --fault, got neither"
        )
    if fault:
        capture_command.capture_fault(run, timeout_s=timeout, as_json=json)
    else:
        capture_command.capture(run, layer, what, save, timeout_s=timeout, as_json=json)


def focus(
    run: Run,
    layers: Annotated[
        list[str], typer.Argument(metavar="LAYERS", help="Names or patterns of at most 16 layers.")
    ],
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="End after N focus steps.")
    ] = None,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Record a few layers in more steps, and print their statistics, until Ctrl-C.

    Meanwhile, all layers are recorded in fewer steps, so that the budget stays the same. With --json, one document
    for each step, on a line of its own.

    Example: gradscope focus RUN fc1 'blocks.0.*' --steps 20
    """
    with connect_to(run) as client:
        ack = client.focus(*layers, timeout_s=timeout)
        text = f"in the focus from step {ack.step} on: {', '.join(ack.layers)}"
        print_result({"run": run, "step": ack.step, "layers": ack.layers}, json, text, indent=None)
        try:
            for table in islice(client.focus_steps(), steps):
                if json:
                    shown = {"step": table.step, "every": table.every, "layers": table.to_dict()}
                    print_json(shown, indent=None)
                    continue
                for layer, rows in table.items():
                    found = [(t, getattr(rows[k], n)) for k, n, t in _FOCUS_NUMBERS if k in rows]
                    words = "  ".join(f"{title} {value:.4g}" for title, value in found)
                    print_lines(f"step {table.step}  {layer}  {words}  every {table.every}")
        finally:
            with suppress(GradscopeError):  # the focus ends with this client in any case
                client.focus(timeout_s=timeout)


def undo(run: Run, timeout: Timeout = 30.0, json: Json = False) -> None:
    """Remove all interventions, and restore the training state from before the first of them.

    The script must have called scope.keep_snapshot().

    Example: gradscope undo RUN
    """
    with connect_to(run) as client:
        ack = client.undo(timeout_s=timeout)
    print_result(
        {"run": run, "step": ack.step},
        json,
        f"step {ack.step} begins with the state from before the first intervention, bit for bit",
        "not restored: the data loader's position, learning-rate schedulers, the script's counters",
    )
