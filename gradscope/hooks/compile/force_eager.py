"""`EagerStance`: runs compiled models eagerly while interventions are active: their graphs do not include these."""

import sys

import torch

__all__ = ["EagerStance"]


class EagerStance:
    """Sets `torch.compiler.set_stance` for this process; a stance set by the user is kept."""

    def __init__(self) -> None:
        self._is_forced = False

    def force(self, is_wanted: bool) -> None:
        """Run compiled functions eagerly if `is_wanted`; otherwise restore compiled execution."""
        if is_wanted == self._is_forced or "torch._dynamo.eval_frame" not in sys.modules:
            return
        now = sys.modules["torch._dynamo.eval_frame"]._stance.stance  # noqa: SLF001 - torch has no public getter
        if is_wanted and now == "default":
            torch.compiler.set_stance("force_eager")
            self._is_forced = True
        elif not is_wanted:
            if now == "force_eager":
                torch.compiler.set_stance("default")
            self._is_forced = False
