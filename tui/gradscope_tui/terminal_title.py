"""The title of the terminal's window or tab: the run, and its worst finding."""

from textual.app import App

from gradscope.findings.text import SIGNS
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.cell import printable

__all__ = ["TerminalTitle", "title_of"]

_KEEP, _RESTORE = "\x1b[22;2t", "\x1b[23;2t"
"""XTWINOPS: the terminal keeps its title, and restores it."""


def title_of(store: RunStore | None) -> str:
    """Return `gradscope gpt: ▲ dead-units`; without a finding, only the run."""
    if store is None:
        return "gradscope"
    verdict = store.verdict
    first = verdict.findings[0] if verdict.has_problem else None
    found = f": {SIGNS[first.severity]} {first.code}" if first else ""
    return f"gradscope {printable(store.run)}{found}"


class TerminalTitle:
    """Writes the title when it changes. `end` restores the title from before."""

    def __init__(self, app: App[int]) -> None:
        self._app = app
        self._shown = ""

    def show(self, title: str) -> None:
        """Show a title in the terminal."""
        if title != self._shown:
            self._write(("" if self._shown else _KEEP) + f"\x1b]2;{title}\x1b\\")
            self._shown = title

    def end(self) -> None:
        """Restore the title."""
        if self._shown:
            self._write(_RESTORE)

    def _write(self, codes: str) -> None:
        driver = self._app._driver  # noqa: SLF001 - Textual has no public way to write codes
        if driver is not None and not driver.is_headless and not driver.is_web:
            driver.write(codes)
            driver.flush()
