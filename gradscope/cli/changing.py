"""`gradscope clip` and its like, `interventions`, `remove`: changing a run over the link."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gradscope.cli.output import say, table_lines
from gradscope.cli.runs import find_run
from gradscope.client import Client, connect
from gradscope.errors import UsageError
from gradscope.protocol import Ack, InterventionState

__all__ = ["End", "install", "remove", "show_interventions"]


@dataclass(frozen=True, slots=True)
class End:
    """When an intervention ends: after some steps, after some seconds, or when it is removed."""

    steps: int | None
    seconds: float | None
    is_kept: bool

    def __post_init__(self) -> None:
        given = (self.steps is not None) + (self.seconds is not None) + self.is_kept
        if given != 1:
            raise UsageError(
                f"give one of --steps N, --for SECONDS and --keep, got {given} of them: "
                "an intervention from the command line needs an end, since nobody watches it"
            )

    def __str__(self) -> str:
        if self.steps is not None:
            return f"for {self.steps} steps"
        return "until it is removed" if self.seconds is None else f"for {self.seconds:g} s"


def install(
    run: str,
    action: str,
    layers: Sequence[str],
    arguments: Mapping[str, float],
    end: End,
    *,
    timeout_s: float,
) -> None:
    """Install an intervention, wait until it is in force, and say so. `action` is a Client's method."""
    with _connect(run) as client:
        ack: Ack = getattr(client, action)(
            layers,
            **arguments,
            end_steps=end.steps,
            end_s=end.seconds,
            is_kept=end.is_kept,
            timeout_s=timeout_s,
        )
    say(
        f"{action} on {_some(ack.layers)}: in force from step {ack.step} {end}",
        f"remove it with: gradscope remove {run} {ack.id}",
    )


def show_interventions(run: str) -> None:
    """Print what is in force."""
    with _connect(run, want="observe") as client:
        entries = client.interventions()
    if entries:
        say(*table_lines(_HEADINGS, [_cells(entry) for entry in entries]))
    else:
        say("nothing is in force")


def remove(run: str, intervention: str | None, *, timeout_s: float) -> None:
    """Remove an intervention, or all of them, and say from which step on it is gone."""
    with _connect(run) as client:
        ack: Ack = (
            client.remove_all(timeout_s=timeout_s)
            if intervention is None
            else client.remove(intervention, timeout_s=timeout_s)
        )
    what = "all interventions" if intervention is None else intervention
    say(f"{what}: gone from step {ack.step} on")


_HEADINGS = ("ID", "ACTION", "LAYERS", "SITE", "SINCE", "END", "SET BY")


def _cells(entry: InterventionState) -> tuple[str, ...]:
    arguments = ", ".join(f"{name}={value:g}" for name, value in entry.arguments.items())
    return (
        entry.id,
        f"{entry.action}({arguments})",
        _some(entry.layers),
        entry.site,
        "pending" if entry.active_since is None else f"step {entry.active_since}",
        entry.end or "-",
        entry.set_by,
    )


def _some(layers: Sequence[str]) -> str:
    """Name up to three layers, and say how many there are beyond."""
    rest = len(layers) - 3
    return ", ".join(layers[:3]) + (f" and {rest} more" if rest > 0 else "")


def _connect(run: str, *, want: Literal["observe", "control"] = "control") -> Client:
    client = connect(want=want, name="the command line")
    try:
        client.run = find_run(run, client.runs())
    except BaseException:
        client.close()
        raise
    return client
