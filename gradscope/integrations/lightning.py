"""`GradscopeCallback` for the Trainer of Lightning: `Trainer(callbacks=[GradscopeCallback()])`.

It attaches when the training starts and detaches when it ends. Each optimizer step has its loss and learning rate, in
automatic and manual optimization, under accumulation and every precision plugin. Several optimizers have numbers:
`loss_1`, `lr_1`, `loss_2`, `lr_2`, in the order of `configure_optimizers`.
"""

import sys
from importlib import util
from typing import TYPE_CHECKING, Any, Unpack

from torch.optim import Optimizer

from gradscope.agent import Scope
from gradscope.errors.requirement import require
from gradscope.integrations.trainer_scope import AttachOptions, TrainerScope, harmless

__all__ = ["GradscopeCallback"]

# Lightning is published under two names. The script's own one is loaded already.
_IS_OLD_NAME = "lightning" not in sys.modules and (
    "pytorch_lightning" in sys.modules or util.find_spec("lightning") is None
)
if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
elif _IS_OLD_NAME and util.find_spec("pytorch_lightning") is not None:
    require("pytorch-lightning", "2.5")
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    require("lightning", "2.5")
    from lightning.pytorch import Callback, LightningModule, Trainer


class GradscopeCallback(Callback):
    """Observes the LightningModule that is trained. It takes the options of `gradscope.attach`.

    A finding is a point of the metric `gradscope/CODE` in the trainer's loggers. If the script has attached the
    module itself, the callback uses that scope. Raises UsageError for an unknown option, and when the training starts
    for a wrong one.
    """

    def __init__(self, **options: Unpack[AttachOptions]) -> None:
        super().__init__()
        self.training = TrainerScope(options)

    @property
    def scope(self) -> Scope | None:
        """The scope of the newest training; None before the first."""
        return self.training.scope

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach."""
        self.training.start(
            pl_module,
            step=trainer.global_step,
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            optimizers=len(trainer.optimizers),
        )

    @harmless
    def on_before_optimizer_step(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002 - Lightning's signature
        optimizer: Optimizer,
    ) -> None:
        """Log loss and learning rate."""
        index = next(i for i, each in enumerate(trainer.optimizers) if each is optimizer)
        self.training.log_optimizer(optimizer, index)

    @harmless
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002 - Lightning's signature
        outputs: Any,  # noqa: ARG002 - as above
        batch: Any,  # noqa: ARG002 - as above
        batch_idx: int,
    ) -> None:
        """End a step that the loss scaler has skipped, and log new findings as often as Lightning logs."""
        self.training.follow_step(trainer.global_step)
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self._log_findings(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - as above
        """Log the last findings and detach."""
        self._log_last_findings(trainer)
        self.training.end()

    def on_exception(
        self,
        trainer: Trainer,  # noqa: ARG002 - as above
        pl_module: LightningModule,  # noqa: ARG002 - as above
        exception: BaseException,
    ) -> None:
        """Detach; viewers see the exception."""
        self.training.end(exception)

    @harmless
    def _log_last_findings(self, trainer: Trainer) -> None:
        self._log_findings(trainer)

    def _log_findings(self, trainer: Trainer) -> None:
        found = {f"gradscope/{each.code}": 1.0 for each in self.training.new_findings()}
        for logger in trainer.loggers if found else ():
            logger.log_metrics(found, step=trainer.fit_loop.epoch_loop._batches_that_stepped)  # noqa: SLF001 - the x-axis of Lightning's own callbacks
