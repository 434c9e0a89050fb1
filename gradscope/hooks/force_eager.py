"""Running compiled models eagerly for a while: interventions are not in their graphs."""

import sys

import torch

__all__ = ["EagerStance"]


class EagerStance:
    """Torch's own switch, `torch.compiler.set_stance`, for this process; a user's stance stays."""

    def __init__(self) -> None:
        self._is_forced = False

    def force(self, is_wanted: bool) -> None:
        """Have compiled functions run eagerly from now on, or as they are compiled again."""
        if is_wanted == self._is_forced or "torch._dynamo.eval_frame" not in sys.modules:
            return
        now = sys.modules["torch._dynamo.eval_frame"]._stance.stance  # noqa: SLF001 - it cannot be asked
        if is_wanted and now == "default":
            torch.compiler.set_stance("force_eager")
            self._is_forced = True
        elif not is_wanted:
            if now == "force_eager":
                torch.compiler.set_stance("default")
            self._is_forced = False
