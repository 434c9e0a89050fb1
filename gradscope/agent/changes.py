"""`Changes`: what a script can do to its own run. One method for each intervention."""

import getpass
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypedDict, Unpack

from gradscope.agent.commands.intervention_commands import Modules, check_request
from gradscope.agent.interventions.handle import Intervention
from gradscope.agent.link.messages import state_of
from gradscope.hooks import LayerPatterns
from gradscope.intervene import (
    Action,
    AuditEntry,
    End,
    Ledger,
    LedgerEntry,
    OwnFunction,
    Ramp,
    action_of,
    find_action,
)
from gradscope.protocol import InterventionState, make_schedule

__all__ = ["Changes", "When"]

_log = logging.getLogger("gradscope")


class When(TypedDict, total=False):
    """Where and when an intervention acts; by default at the output, in every step until it is removed.

    site: "output", "input" or "params". start_step, end_step: the first step in which it acts, and
    the first in which it does no more. every_steps: every so many. for_steps, for_s: it is taken off so
    many steps after its first, or seconds after it was set. ramp: a `Ramp`, or text as
    "alpha=0:1:1000" or "alpha=0:1:1000:dann". when: a condition on what arrives, as "norm > 10".
    """

    site: str
    start_step: int | None
    end_step: int | None
    every_steps: int
    for_steps: int | None
    for_s: float | None
    ramp: Ramp | str | None
    when: str


class Changes(ABC):
    """The interventions of a Scope. Each takes effect at once where the step has not begun to compute.

    `layers` are patterns as in `attach`; `how` says where and when (see `When`). Raises UsageError for
    what cannot be, and its subclass UnknownLayerError where a pattern matches nothing.
    """

    _ledger: Ledger

    @property
    def interventions(self) -> tuple[InterventionState, ...]:
        """All interventions in force or pending, with who set each and since which step."""
        return tuple(state_of(entry) for entry in self._ledger.entries())

    @property
    def history(self) -> tuple[AuditEntry, ...]:
        """Who set and removed what, when, from which step on; oldest first."""
        return self._ledger.history.entries()

    def reverse(
        self, layers: LayerPatterns, *, alpha: float = 1.0, **how: Unpack[When]
    ) -> Intervention:
        """Multiply the gradient by -alpha, as a gradient reversal layer does."""
        return self._intervene("reverse", layers, {"alpha": alpha}, how)

    def scale(self, layers: LayerPatterns, *, factor: float, **how: Unpack[When]) -> Intervention:
        """Multiply the gradient by a factor."""
        return self._intervene("scale", layers, {"factor": factor}, how)

    def clip(
        self, layers: LayerPatterns, *, max_norm: float, per: str = "tensor", **how: Unpack[When]
    ) -> Intervention:
        """Rescale the gradient to a Euclidean norm of at most max_norm (0 or greater).

        per: "tensor", each by itself; "layer", all of one layer's as one vector; "all", those of all
        chosen layers, at the site "params".
        """
        return self._intervene("clip", layers, {"max_norm": max_norm, "per": per}, how)

    def clamp(self, layers: LayerPatterns, *, limit: float, **how: Unpack[When]) -> Intervention:
        """Limit each element of the gradient to [-limit, limit]."""
        return self._intervene("clamp", layers, {"limit": limit}, how)

    def stop(self, layers: LayerPatterns, **how: Unpack[When]) -> Intervention:
        """Set the gradient to zero: nothing is learnt through these layers' outputs."""
        return self._intervene("stop", layers, {}, how)

    def noise(
        self,
        layers: LayerPatterns,
        *,
        std: float,
        seed: int = 0,
        relative: bool = False,
        **how: Unpack[When],
    ) -> Intervention:
        """Add Gaussian noise to the gradient, from a generator of its own that begins at `seed`.

        relative: std is a fraction of the gradient's own deviation.
        """
        given = {"std": std, "seed": seed, "relative": relative}
        return self._intervene("noise", layers, given, how)

    def replace_nonfinite(
        self, layers: LayerPatterns, *, value: float = 0.0, **how: Unpack[When]
    ) -> Intervention:
        """Put a value in the place of each NaN and infinity in the gradient."""
        return self._intervene("replace_nonfinite", layers, {"value": value}, how)

    def straight_through(self, layers: LayerPatterns, **how: Unpack[When]) -> Intervention:
        """Give the gradient at a layer's output to its first input as it is; the layer gets zeros."""
        return self._intervene("straight_through", layers, {}, how)

    def scale_activation(
        self, layers: LayerPatterns, *, factor: float, **how: Unpack[When]
    ) -> Intervention:
        """Multiply what a layer computes; its gradient too. Acts in evaluation as well."""
        return self._intervene("scale_activation", layers, {"factor": factor}, how)

    def clamp_activation(
        self, layers: LayerPatterns, *, limit: float, **how: Unpack[When]
    ) -> Intervention:
        """Limit each element of what a layer computes; what was outside gets no gradient."""
        return self._intervene("clamp_activation", layers, {"limit": limit}, how)

    def zero_activation(self, layers: LayerPatterns, **how: Unpack[When]) -> Intervention:
        """Put zeros for what a layer computes (ablation); it gets zeros for a gradient."""
        return self._intervene("zero_activation", layers, {}, how)

    def noise_activation(
        self, layers: LayerPatterns, *, std: float, seed: int = 0, **how: Unpack[When]
    ) -> Intervention:
        """Add Gaussian noise to what a layer computes; the gradient passes as it is."""
        return self._intervene("noise_activation", layers, {"std": std, "seed": seed}, how)

    def round_activation(
        self, layers: LayerPatterns, *, dtype: str = "bfloat16", **how: Unpack[When]
    ) -> Intervention:
        """Round what a layer computes to a lower precision, in its own dtype.

        dtype: "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2". The gradient passes as it is.
        """
        return self._intervene("round_activation", layers, {"dtype": dtype}, how)

    def intervene(
        self,
        layers: LayerPatterns,
        function: OwnFunction | str,
        *,
        arguments: Mapping[str, object] | None = None,
        **how: Unpack[When],
    ) -> Intervention:
        """Change the gradient by a function of one's own, or by an intervention of that name.

        `function(gradient)` returns a tensor like it; a subclass of torch.autograd.Function is applied
        to the layer's output (or input) in forward. What fails, returns another shape or dtype, or NaN
        where none came, is taken off at once and told of; that gradient stays as it was.
        """
        action = find_action(function) if isinstance(function, str) else action_of(function)
        return self._intervene(action, layers, arguments or {}, how)

    def _intervene(
        self,
        action: str | Action,
        layers: LayerPatterns,
        arguments: Mapping[str, object],
        how: When,
    ) -> Intervention:
        action = find_action(action) if isinstance(action, str) else action
        request = check_request(
            self._modules(),
            action,
            arguments,
            layers,
            site=how.get("site", "output"),
            set_by="script",
            end=End(how.get("for_steps"), how.get("for_s")),
            schedule=make_schedule(
                start_step=how.get("start_step"),
                end_step=how.get("end_step"),
                every_steps=how.get("every_steps", 1),
                ramp=how.get("ramp"),
                when=how.get("when", ""),
            ),
            origin=f"{getpass.getuser()}@{socket.gethostname()}, pid {os.getpid()}",
        )
        entry = self._ledger.install(request, _nothing_to_answer)
        self._settle_if_fresh()
        return Intervention(entry, self._remove)

    def _tell_deed(self, deed: AuditEntry) -> None:
        """Tell viewers and the recording what was done; what failed stands in the script's log too."""
        has_failed = deed.what == "failed"
        if has_failed:
            _log.warning("gradscope: %s", deed)
        self._tell("warning" if has_failed else "info", f"intervention.{deed.what}", str(deed))

    def _remove(self, id: str) -> None:
        if self._ledger.remove(id, lambda _step: None, by="script"):
            self._settle_if_fresh()

    @abstractmethod
    def _tell(self, level: str, code: str, text: str) -> None:
        """Tell whoever watches of an event."""

    @abstractmethod
    def _modules(self) -> Modules:
        """Return the model's modules, by name."""

    @abstractmethod
    def _settle_if_fresh(self) -> None:
        """Let requests take effect in this step where it has not begun to compute."""


def _nothing_to_answer(entry: LedgerEntry, step: int) -> None:
    """Nobody waits for a script's own intervention: it can be asked for `active_since`."""
