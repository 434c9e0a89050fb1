"""`Effects` stores the step at which each intervention became active, and the step at which it ended."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gradscope.protocol import Interventions, InterventionState

__all__ = ["Effect", "Effects"]

_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Effect:
    """The start of an intervention at `step`, or its end if `is_end`."""

    step: int
    state: InterventionState
    is_end: bool = False


class Effects:
    """The newest 200 effects. An intervention that began and ended between two messages is not known."""

    def __init__(self) -> None:
        self._effects: deque[Effect] = deque(maxlen=_LIMIT)
        self._active: dict[str, InterventionState] = {}

    def note(self, message: Interventions) -> None:
        """Add the interventions that began or ended since the previous message."""
        now = {state.id: state for state in message.entries}
        for id, state in now.items():
            if id not in self._active and state.active_since is not None:
                self._effects.append(Effect(state.active_since, state))
        for id, state in self._active.items():
            if id not in now:
                self._effects.append(Effect(message.step, state, is_end=True))
        self._active = {id: state for id, state in now.items() if state.active_since is not None}

    def of(self, layer: str) -> Iterator[Effect]:
        """Yield the effects on a layer, oldest first."""
        return (effect for effect in self._effects if layer in effect.state.layers)

    def clear(self) -> None:
        """Remove everything."""
        self._effects.clear()
        self._active = {}
