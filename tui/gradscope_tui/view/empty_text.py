"""The text in the middle of a page without content: the reason, and the next thing to do."""
# ruff: noqa: RUF001 - the signs are meant

from gradscope.names import counted

__all__ = [
    "NO_ALERTS",
    "NO_INTERVENTIONS",
    "NO_MEMORY",
    "no_layers_text",
    "too_small_text",
    "waiting_text",
]

NO_ALERTS = "No alerts: no rule has found a problem."
NO_INTERVENTIONS = "No active interventions.\n\nPress i to add one to the marked layers."
NO_MEMORY = (
    "No memory data yet.\n\n"
    "Memory is measured in the first step, then occasionally.\nPress m to measure the next step."
)


def waiting_text(run: str | None, *, problem: str = "", ended: int = 0) -> str:
    """Return the text while there is no run to watch. `ended` runs can be chosen with R."""
    which = "a run" if run is None else f"the run {run!r}"
    more = f"\n\nPress R to choose one of {counted(ended, 'ended run')}." if ended else ""
    return (
        f"Waiting for {which}…\n\n"
        "Add one line to your training script and start it:\n\n"
        "gradscope.attach(model)\n\n"
        "This screen connects automatically." + more + (f"\n\n{problem}" if problem else "")
    )


def no_layers_text(run: str, model: str, *, has_manifest: bool) -> str:
    """Return the text while there are no layers."""
    return f"{model or 'The model'} has no layers to show." if has_manifest else f"Waiting for {run}…"


def too_small_text(width: int, height: int) -> str:
    """Return the text for a terminal without room for a table."""
    return f"{width} × {height} is too small.\n40 × 10 is enough."
