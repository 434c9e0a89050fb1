"""What was to be seen, or to act, and was not: said once each, lest silence be taken for calm."""

from collections.abc import Sequence

from gradscope.agent.faults import Faults
from gradscope.intervene import Entry

__all__ = ["IdleWatch"]

_BLIND = (
    "no layer was seen computing in step {step}: the model was compiled before gradscope was attached, "
    "or something else is trained. Outputs and their gradients are not measured; parameters are. For a "
    "compiled model: attach before its first call, or call torch._dynamo.reset() after attach."
)
_IDLE = (
    "{id} did nothing in step {step}: {names} gave no output that takes a gradient there. The module "
    "was not called, is compiled, or ran without gradients."
)


class IdleWatch:
    """Notes which layers were seen and changed in a step; judges at its end."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._judged: set[str] = set()
        self._acted: set[str] = set()
        self._has_seen = False

    def note_seen(self) -> None:
        """Note that a watched layer has run."""
        self._has_seen = True

    def note_acted(self, layer: str) -> None:
        """Note that an intervention was laid over a layer's output."""
        self._acted.add(layer)

    def judge(self, step: int, entries: Sequence[Entry], *, is_observed: bool) -> None:
        """End a step: say what stood in force for the first time and did nothing."""
        if is_observed and not self._has_seen and "" not in self._judged:
            self._judged.add("")
            self._faults.warn("seeing layers", _BLIND.format(step=step))
        for entry in entries:
            if entry.active_since is None or entry.id in self._judged:
                continue
            self._judged.add(entry.id)
            if self._acted.isdisjoint(entry.layers):
                names = ", ".join(entry.layers)
                self._faults.warn(entry.id, _IDLE.format(id=entry.id, step=step, names=names))
        self._acted.clear()
        self._has_seen = False
