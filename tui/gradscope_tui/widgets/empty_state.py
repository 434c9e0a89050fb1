"""`EmptyState`: one quiet message in the middle, where there is nothing to show yet, and why."""
# ruff: noqa: RUF001 - the signs are meant

from textual.widgets import Static

__all__ = ["EmptyState", "no_hub_text", "too_small_text", "waiting_text"]


class EmptyState(Static):
    """A few centred words. Nothing in them is markup."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("", markup=False, id=id)
        self._said = ""

    def say(self, text: str) -> None:
        """Show these words."""
        if text != self._said:
            self._said = text
            self.update(text)


def waiting_text(run: str | None) -> str:
    """Return what is said while there is no run."""
    which = "a run" if run is None else f"the run {run!r}"
    return (
        f"waiting for {which}…\n\n"
        "add one line to your training script, and start it:\n\n"
        "gradscope.attach(model)\n\n"
        "this screen connects by itself"
    )


def no_hub_text(run: str | None, problem: str) -> str:
    """Return what is said while there is no hub; a run starts one."""
    return waiting_text(run) + (f"\n\n{problem}" if problem else "")


def too_small_text(width: int, height: int) -> str:
    """Return what is said in a window without room."""
    return f"{width} × {height} is small\n40 × 10 will do"
