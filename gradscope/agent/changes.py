"""`Changes`: what a script can do to the gradients of its own run. One method for each intervention."""

from abc import ABC, abstractmethod

from gradscope.agent.control import install_checked
from gradscope.agent.frames import state_of
from gradscope.agent.intervention import Intervention
from gradscope.hooks import LayerPatterns
from gradscope.intervene import End, Entry, Ledger
from gradscope.protocol import InterventionState

__all__ = ["Changes"]


class Changes(ABC):
    """The interventions of a Scope. Each takes effect at once where the step has not begun to compute.

    `layers` are patterns as in `attach`. Raises UsageError for an argument that cannot be, and its
    subclass UnknownLayerError where a pattern matches nothing.
    """

    _ledger: Ledger
    _names: list[str]

    @property
    def interventions(self) -> tuple[InterventionState, ...]:
        """All interventions in force or pending, with who set each and since which step."""
        return tuple(state_of(entry) for entry in self._ledger.entries())

    def reverse(
        self, layers: LayerPatterns, *, alpha: float = 1.0, site: str = "output"
    ) -> Intervention:
        """Multiply the gradient by -alpha, as a gradient reversal layer does."""
        return self._intervene("reverse", {"alpha": alpha}, layers, site)

    def scale(self, layers: LayerPatterns, *, factor: float, site: str = "output") -> Intervention:
        """Multiply the gradient by a factor."""
        return self._intervene("scale", {"factor": factor}, layers, site)

    def clip(self, layers: LayerPatterns, *, max_norm: float, site: str = "output") -> Intervention:
        """Rescale each gradient tensor to a Euclidean norm of at most max_norm (0 or greater)."""
        return self._intervene("clip", {"max_norm": max_norm}, layers, site)

    def clamp(self, layers: LayerPatterns, *, limit: float, site: str = "output") -> Intervention:
        """Limit each element of the gradient to [-limit, limit]."""
        return self._intervene("clamp", {"limit": limit}, layers, site)

    def stop(self, layers: LayerPatterns, *, site: str = "output") -> Intervention:
        """Set the gradient to zero: nothing is learnt through these layers' outputs."""
        return self._intervene("stop", {}, layers, site)

    def noise(
        self, layers: LayerPatterns, *, std: float, seed: int = 0, site: str = "output"
    ) -> Intervention:
        """Add Gaussian noise to the gradient, from a generator of its own that begins at `seed`."""
        return self._intervene("noise", {"std": std, "seed": seed}, layers, site)

    def _intervene(
        self, action: str, arguments: dict[str, float], layers: LayerPatterns, site: str
    ) -> Intervention:
        entry = install_checked(
            self._ledger,
            self._names,
            action,
            arguments,
            layers,
            site=site,
            set_by="script",
            end=End(),
            done=_nothing_to_answer,
        )
        self._settle_if_fresh()
        return Intervention(entry, self._remove)

    def _remove(self, id: str) -> None:
        if self._ledger.remove(id, lambda _step: None):
            self._settle_if_fresh()

    @abstractmethod
    def _settle_if_fresh(self) -> None:
        """Let requests take effect in this step where it has not begun to compute."""


def _nothing_to_answer(entry: Entry, step: int) -> None:
    """Nobody waits for a script's own intervention: it can be asked for `active_since`."""
