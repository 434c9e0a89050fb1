"""`GradscopeCallback` for the Trainer of Transformers: `Trainer(..., callbacks=[GradscopeCallback()])`.

It attaches when the training starts, at the step of a resumed training, and detaches when it ends. Each step has its
loss and learning rate; under gradient accumulation the loss is that of all micro-batches.
"""

from typing import TYPE_CHECKING, Any, Unpack

from gradscope.agent import Scope
from gradscope.errors.requirement import require
from gradscope.integrations.trainer_scope import AttachOptions, TrainerScope, harmless

if not TYPE_CHECKING:
    require("transformers", "5.0")
    require("accelerate", "1.10")

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["GradscopeCallback"]


class GradscopeCallback(TrainerCallback):
    """Observes the model that is trained. It takes the options of `gradscope.attach`.

    A finding is an entry of `trainer.state.log_history`, with the keys `gradscope/finding`, `gradscope/message` and
    `step`, before the entry that the trainer logs next. If the script has attached the model itself, the callback uses
    that scope. Raises UsageError for an unknown option, and when the training starts for a wrong one.
    """

    def __init__(self, **options: Unpack[AttachOptions]) -> None:
        self.training = TrainerScope(options)

    @property
    def scope(self) -> Scope | None:
        """The scope of the newest training; None before the first."""
        return self.training.scope

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002 - the trainer's signature
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - as above
        **kwargs: Any,
    ) -> None:
        """Attach."""
        scaler = getattr(kwargs.get("optimizer"), "scaler", None)
        self.training.start(kwargs["model"], step=state.global_step, scaler=scaler)

    @harmless
    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002 - as above
        state: TrainerState,  # noqa: ARG002 - as above
        control: TrainerControl,  # noqa: ARG002 - as above
        **kwargs: Any,
    ) -> None:
        """Log loss and learning rate."""
        self.training.log_optimizer(kwargs["optimizer"])

    @harmless
    def on_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002 - as above
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - as above
        **kwargs: Any,  # noqa: ARG002 - as above
    ) -> None:
        """End a step that the loss scaler has skipped, before the trainer zeroes the gradients."""
        self.training.follow_step(state.global_step + 1)

    @harmless
    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002 - as above
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - as above
        **kwargs: Any,  # noqa: ARG002 - as above
    ) -> None:
        """Add new findings to the log. The newest entry stays the trainer's own: scripts read it."""
        if state.is_world_process_zero:
            for each in self.training.new_findings():
                entry: dict[str, Any] = {
                    "gradscope/finding": each.code,
                    "gradscope/message": each.message,
                    "step": state.global_step,
                }
                state.log_history.insert(max(len(state.log_history) - 1, 0), entry)

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002 - as above
        state: TrainerState,  # noqa: ARG002 - as above
        control: TrainerControl,  # noqa: ARG002 - as above
        **kwargs: Any,  # noqa: ARG002 - as above
    ) -> None:
        """Detach."""
        self.training.end()
