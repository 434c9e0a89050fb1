"""What was to be seen, or to act, and was not: said once each, lest silence be taken for calm."""

from collections.abc import Sequence

from gradscope.agent.run.faults import Faults
from gradscope.intervene import LedgerEntry

__all__ = ["NoEffectWarnings"]

_BLIND = (
    "no layer was seen computing in step {step}: the model was compiled before gradscope was attached, "
    "or something else is trained. Outputs and their gradients are not measured; parameters are. For a "
    "compiled model: attach before its first call, or call torch._dynamo.reset() after attach."
)
_IDLE = {
    "output": "gave no output that takes a gradient there. The module was not called, or ran without "
    "gradients.",
    "input": "was given nothing that takes a gradient there. The module was not called, or ran without "
    "gradients.",
    "params": "had no parameter with a gradient when an optimizer stepped.",
}


class NoEffectWarnings:
    """Notes whether layers were seen in a step; judges at its end, also of what acted in it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._judged: set[str] = set()
        self._has_seen = False

    def note_seen(self) -> None:
        """Note that a watched layer has run."""
        self._has_seen = True

    def judge(self, step: int, entries: Sequence[LedgerEntry], *, is_observed: bool) -> None:
        """End a step: say what stood in force for the first time and did nothing."""
        if is_observed and not self._has_seen and "" not in self._judged:
            self._judged.add("")
            self._faults.warn("seeing layers", _BLIND.format(step=step))
        for entry in entries:
            if entry.id in self._judged:
                continue
            self._judged.add(entry.id)
            if not entry.intervention.has_acted and not entry.intervention.failure:
                names, why = ", ".join(entry.layers), _IDLE[entry.request.site]
                self._faults.warn(entry.id, f"{entry.id} did nothing in step {step}: {names} {why}")
        self._has_seen = False
