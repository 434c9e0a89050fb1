"""`GradscopeTracker`: a tracker of Accelerate that attaches to a prepared model.

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    GradscopeTracker(accelerator, model)

The tracker needs the model as `accelerator.prepare` has returned it, so make it after `prepare`. It adds itself to the
trackers of the accelerator: `accelerator.log` then logs to gradscope too, and `accelerator.end_training` detaches.
"""

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Unpack

import torch
from torch import nn

from gradscope.agent import Scope
from gradscope.errors import UsageError
from gradscope.errors.requirement import require
from gradscope.hooks import BackwardRootHook, is_in_backward
from gradscope.integrations.trainer_scope import AttachOptions, TrainerScope, harmless

if not TYPE_CHECKING:
    require("accelerate", "1.10")

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

__all__ = ["GradscopeTracker"]

_NAMES_LIMIT: Final = 48
"""Values of one call that are logged; a step has at most 64 scalars."""


class GradscopeTracker(GeneralTracker):
    """Observes a prepared model. It takes the options of `gradscope.attach`.

    step: the index of the first step, for a training that was resumed.

    Loss and learning rate are logged by themselves if one optimizer was prepared. A finding is a point of the metric
    `gradscope/CODE` in the other trackers, at the next `accelerator.log`. Raises UsageError for a model that was not
    prepared, and for a wrong option.
    """

    name = "gradscope"
    requires_logging_directory = False
    main_process_only = False  # each rank logs its own loss

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        *,
        step: int = 0,
        **options: Unpack[AttachOptions],
    ) -> None:
        super().__init__()
        self.training = TrainerScope(options)
        self._accelerator = accelerator
        inner = accelerator.unwrap_model(model)
        if all(accelerator.unwrap_model(each) is not inner for each in accelerator._models):  # noqa: SLF001 - no public list
            raise UsageError(
                "GradscopeTracker takes a model that accelerator.prepare has returned; make it after prepare"
            )
        self.training.start(inner, step=step, scaler=accelerator.scaler)
        self._backwards = BackwardRootHook(self._on_backward)  # after that of the TrainerScope
        self._backwards.install()
        accelerator.trackers.append(self)

    @property
    def scope(self) -> Scope | None:
        """The scope of the model."""
        return self.training.scope

    @property
    def tracker(self) -> Scope | None:
        """The scope, under the name that Accelerate uses."""
        return self.training.scope

    @harmless
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log the numbers in `values`, in the step in progress or just ended; new findings go to the other trackers."""
        numbers = {name: value for name, value in values.items() if _is_number(value)}
        self.training.log(dict(islice(numbers.items(), _NAMES_LIMIT)))
        found = {f"gradscope/{each.code}": 1.0 for each in self.training.new_findings()}
        for tracker in self._accelerator.trackers if found else ():
            if tracker is not self:
                tracker.log(found, step=step, **kwargs)

    def finish(self) -> None:
        """Detach."""
        self._backwards.remove()
        self.training.end()

    def _on_backward(self, tensors: list[torch.Tensor]) -> None:  # noqa: ARG002 - the signature of a hook
        if not is_in_backward():
            self._log_loss()

    @harmless
    def _log_loss(self) -> None:
        optimizers = self._accelerator._optimizers  # noqa: SLF001 - no public list
        if len(optimizers) == 1:  # otherwise it is not known whose loss this is
            self.training.log_optimizer(optimizers[0], is_complete=self._accelerator.sync_gradients)


def _is_number(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, int | float)
