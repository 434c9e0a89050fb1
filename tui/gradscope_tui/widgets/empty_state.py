"""`EmptyState`: a text in the middle of a page that has nothing to show."""

from textual.widgets import Static

__all__ = ["EmptyState"]


class EmptyState(Static):
    """A few centred lines, never parsed as markup."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("", markup=False, id=id)
        self._text = ""

    def show(self, text: str) -> None:
        """Show this text."""
        if text != self._text:
            self._text = text
            self.update(text)
