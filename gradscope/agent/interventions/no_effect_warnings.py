"""Warns once when no watched layer ran, or an active intervention had no effect."""

from collections.abc import Sequence

from gradscope.agent.run.faults import Faults
from gradscope.intervene import LedgerEntry

__all__ = ["NoEffectWarnings"]

_BLIND = (
    "no watched layer ran in step {step}, so parameters are observed, but no outputs. Possible reasons: the model was "
    "compiled before gradscope was attached (attach before its first call, or call torch._dynamo.reset() after "
    "attach); it is a TorchScript module, which calls no hooks (attach the module of which it was made); another "
    "model is trained; or layers are used without a call, as in F.linear(x, layer.weight)"
)
_IDLE = {
    "output": "had no output that requires a gradient. The module was not called, or ran without "
    "gradients.",
    "input": "had no input that requires a gradient. The module was not called, or ran without "
    "gradients.",
    "params": "had no parameter with a gradient when an optimizer stepped.",
}


class NoEffectWarnings:
    """Records whether watched layers ran in a step, and warns at the end of the step."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._judged: set[str] = set()
        self._has_seen = False

    def note_seen(self) -> None:
        """Record that a watched layer has run."""
        self._has_seen = True

    def warn_if_without_effect(
        self, step: int, entries: Sequence[LedgerEntry], *, is_observed: bool
    ) -> None:
        """End a step: warn about each intervention that had no effect in its first step."""
        if is_observed and not self._has_seen and "" not in self._judged:
            self._judged.add("")
            self._faults.warn("observing layers", _BLIND.format(step=step))
        for entry in entries:
            if entry.id in self._judged:
                continue
            self._judged.add(entry.id)
            if not entry.intervention.has_acted and not entry.intervention.failure:
                names, why = ", ".join(entry.layers), _IDLE[entry.request.site]
                self._faults.warn(entry.id, f"{entry.id} had no effect in step {step}: {names} {why}")
        self._has_seen = False
