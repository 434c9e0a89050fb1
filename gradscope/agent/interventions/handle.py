"""`Intervention`: a script's handle of an intervention that it set."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from gradscope.intervene import LedgerEntry

__all__ = ["Intervention"]


class Intervention:
    """One intervention. It is in force from `active_since` to `remove()`.

    As a context manager it is removed at the end of the block.
    """

    def __init__(self, entry: LedgerEntry, remove: Callable[[str], None]) -> None:
        self._entry = entry
        self._remove = remove

    @property
    def id(self) -> str:
        """Its name in this run, such as `reverse-1`."""
        return self._entry.id

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers on which it acts."""
        return self._entry.layers

    @property
    def active_since(self) -> int | None:
        """The first step in which it is in force; None while it is pending."""
        return self._entry.active_since

    @property
    def failure(self) -> str:
        """Why it failed and was removed; empty if it has not failed."""
        return self._entry.intervention.failure

    @property
    def is_removed(self) -> bool:
        """Whether it was removed, or has expired."""
        return self._entry.is_removed

    def remove(self) -> None:
        """Remove it, at the next step boundary if a step is in progress. A second call does nothing."""
        self._remove(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "pending" if self.active_since is None else f"since step {self.active_since}"
        return f"<{self.id}: {self._entry.request}, {state}>"
