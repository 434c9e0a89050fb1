"""Errors inside gradscope: counted, reported once, and kept away from the training."""

import logging
import threading
from collections import Counter
from collections.abc import Callable

__all__ = ["Faults"]

_log = logging.getLogger("gradscope")


class Faults:
    """Counts the errors of each part of gradscope. Logs the first of each and calls `tell(code, text)`."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self.tell = tell
        self._counts: Counter[str] = Counter()
        self._failed: dict[str, None] = {}
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """The number of errors of each part."""
        return dict(self._counts)

    @property
    def failed(self) -> tuple[str, ...]:
        """The parts in which an error has occurred; not those with a warning only."""
        return tuple(self._failed)

    def report(self, part: str, error: BaseException, consequence: str) -> None:
        """Count an error of a part. Report the first one, with its consequence."""
        self._failed[part] = None
        text = f"{part} failed: {type(error).__name__}: {error}. {consequence}"
        self._count(part, text, f"{text} Training continues.", error)

    def warn(self, part: str, text: str) -> None:
        """Log and report a warning once for each part. A warning is not an error of gradscope."""
        self._count(part, text, text)

    def _count(self, part: str, text: str, logged: str, error: BaseException | None = None) -> None:
        with self._lock:
            self._counts[part] += 1
            is_first = self._counts[part] == 1
        if is_first:
            _log.warning("gradscope: %s", logged, exc_info=error)
            self.tell(f"fault.{part.replace(' ', '-')}", text)
