"""`Intervention`: the script's handle for an intervention that it has set."""

from collections.abc import Callable
from typing import Self

from gradscope.intervene import LedgerEntry

__all__ = ["Intervention"]


class Intervention:
    """An intervention of the script, in force from step `active_since` until `remove()`.

    As a context manager, it is removed at the end of the block.
    """

    def __init__(self, entry: LedgerEntry, remove: Callable[[str], None]) -> None:
        self._entry = entry
        self._remove = remove

    @property
    def id(self) -> str:
        """The id of the intervention in this run, such as `reverse-1`."""
        return self._entry.id

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers on which the intervention acts."""
        return self._entry.layers

    @property
    def active_since(self) -> int | None:
        """The first step in which the intervention is in force; None while it is pending."""
        return self._entry.active_since

    @property
    def failure(self) -> str:
        """The reason why the intervention failed and was removed; empty if there was no failure."""
        return self._entry.intervention.failure

    @property
    def is_removed(self) -> bool:
        """Whether the intervention was removed or has expired."""
        return self._entry.is_removed

    def remove(self) -> None:
        """Remove the intervention: at once, or at the next step boundary if a step is in progress.

        Calling it again does nothing.
        """
        self._remove(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "pending" if self.active_since is None else f"since step {self.active_since}"
        return f"<{self.id}: {self._entry.request}, {state}>"
