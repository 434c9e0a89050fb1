"""`gradscope pause`, `resume`, `step`, `break`, `unbreak`, `undo`: stop a training, or restore its state."""

from gradscope.cli.connection import connect_to
from gradscope.cli.output import say, table_lines

__all__ = ["add_breakpoint", "pause", "remove_breakpoint", "resume", "show_breakpoints", "step", "undo"]


def pause(run: str, lease_s: float, *, timeout_s: float) -> None:
    """Pause a run; print the step before which it is paused, and for how long."""
    with connect_to(run) as client:
        ack = client.pause(lease_s=lease_s, timeout_s=timeout_s)
    say(
        f"paused before step {ack.step}; continues by itself in {lease_s:g} s",
        f"renew it with: gradscope pause {run}    go on with: gradscope resume {run}",
    )


def resume(run: str, *, timeout_s: float) -> None:
    """Resume a run."""
    with connect_to(run) as client:
        ack = client.resume(timeout_s=timeout_s)
    say(f"continues with step {ack.step}")


def step(run: str, lease_s: float, *, timeout_s: float) -> None:
    """Run one step, and pause before the next one."""
    with connect_to(run) as client:
        ack = client.step_once(lease_s=lease_s, timeout_s=timeout_s)
    say(f"step {ack.step} has run; paused before the next, continues by itself in {lease_s:g} s")


def add_breakpoint(run: str, condition: str, lease_s: float, *, timeout_s: float) -> None:
    """Set a breakpoint and print its id."""
    with connect_to(run) as client:
        name = client.breakpoint(condition, lease_s=lease_s, timeout_s=timeout_s)
    say(f"{name}: pauses when {condition}", f"remove it with: gradscope unbreak {run} {name}")


def show_breakpoints(run: str) -> None:
    """Print the breakpoints of a run."""
    with connect_to(run, want="observe") as client:
        there = client.breakpoints()
    if there:
        rows = [(each.id, each.condition, str(each.hits), each.set_by) for each in there]
        say(*table_lines(("ID", "CONDITION", "HITS", "SET BY"), rows))
    else:
        say("no breakpoint is set")


def remove_breakpoint(run: str, id: str | None, *, timeout_s: float) -> None:
    """Remove a breakpoint, or all of them."""
    with connect_to(run) as client:
        client.remove_breakpoint(id or "", timeout_s=timeout_s)
    say(f"{id or 'all breakpoints'}: gone")


def undo(run: str, *, timeout_s: float) -> None:
    """Remove all interventions and restore the state from before the first one."""
    with connect_to(run) as client:
        ack = client.undo(timeout_s=timeout_s)
    say(
        f"step {ack.step} begins from the state of before the first intervention, bit for bit",
        "not put back: where the data loader stands, learning-rate schedulers, the script's counters",
    )
