"""Which run is meant, when it was not named or not found."""

from collections.abc import Sequence

from gradscope.errors import NothingToConnectError
from gradscope.protocol import RunInfo

__all__ = ["live_runs", "only_live_run", "require_run"]


def live_runs(runs: Sequence[RunInfo]) -> list[str]:
    """Return the names of the live runs, each once, in order."""
    return list(dict.fromkeys(info.run for info in runs if info.is_live))


def only_live_run(runs: Sequence[RunInfo]) -> str:
    """Return the only live run. Raises NothingToConnectError when there is none, or several."""
    live = live_runs(runs)
    if len(live) == 1:
        return live[0]
    if not live:
        raise NothingToConnectError(
            "no run is live; start a training that calls gradscope.attach(model), or: gradscope demo"
        )
    raise NothingToConnectError(f"{len(live)} runs are live, name one of them: {', '.join(live)}")


def require_run(name: str, runs: Sequence[RunInfo]) -> None:
    """Raise NothingToConnectError unless the hub knows the run."""
    if any(info.run == name for info in runs):
        return
    live = live_runs(runs)
    raise NothingToConnectError(
        f"there is no run {name!r}; " + (f"live runs: {', '.join(live)}" if live else "no run is live")
    )
