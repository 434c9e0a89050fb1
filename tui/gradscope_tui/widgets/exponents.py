"""`ExponentStrip` shows the exponent histogram of one kind of tensor over the steps."""

from textual.strip import Strip

from gradscope_tui.store.histograms import Shares
from gradscope_tui.view.cell import Cell, fit
from gradscope_tui.view.plots.heat_strip import LEGEND, draw_strip, in_words
from gradscope_tui.widgets.cell_strip import CellWidget

__all__ = ["ExponentStrip"]

_NOT_MEASURED = (
    "Not measured. Exponents are counted at full detail only:",
    "",
    '    gradscope.attach(model, detail="full")',
)


class ExponentStrip(CellWidget):
    """A title, a summary of the newest step, and the heat strip."""

    def __init__(self) -> None:
        super().__init__()
        self._title = ""
        self._shares: Shares | None = None
        self._lines: list[tuple[Cell, ...]] | None = None

    def show(self, title: str, shares: Shares | None) -> None:
        """Show these shares; None means that the run does not measure histograms."""
        self._title, self._shares = title, shares
        self._lines = None
        self.refresh()

    def on_resize(self) -> None:
        """Redraw for the new size."""
        self._lines = None

    def render_line(self, y: int) -> Strip:
        """Draw line `y` of the title, the summary and the strip."""
        if self._lines is None:
            self._lines = self._draw(self.size.width, self.size.height)
        cells = self._lines[y] if y < len(self._lines) else ()
        return self.strip_of(cells, self.size.width, self.rich_style)

    def _draw(self, width: int, height: int) -> list[tuple[Cell, ...]]:
        title = Cell(f"exponents: {self._title}", "title")
        if self._shares is None:
            return [(title,), *((Cell("  " + fit(line, width - 2), "dim"),) for line in _NOT_MEASURED)]
        has_room = width >= len(title.text) + len(LEGEND) + 3
        head = (title, Cell("   " + LEGEND, "dim")) if has_room else (title,)
        words = Cell("  " + fit(in_words(self._shares, width - 2), width - 2), "dim")
        picture = draw_strip(self._shares, width - 1, height - 2)
        return [head, (words,), *(picture or ())]
