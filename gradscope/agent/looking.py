"""`Looking`: what a Scope lends for a look, and lets one go back to: captured tensors, a kept state."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.inspection.capture import Capture, Captures, check_what
from gradscope.agent.inspection.capture_upload import CaptureUpload
from gradscope.agent.inspection.snapshot import Snapshot
from gradscope.agent.link.publisher import Publisher
from gradscope.agent.run.faults import Faults
from gradscope.agent.step.engine import StepEngine
from gradscope.errors import UsageError
from gradscope.hooks import LayerPatterns
from gradscope.intervene import Ledger
from gradscope.names import match_names
from gradscope.protocol import Hello, Message

__all__ = ["Looking"]


class Looking(ABC):
    """Captures of whole tensors, and the way back to before the first intervention."""

    _hello: Hello
    _names: list[str]
    _faults: Faults
    _ledger: Ledger
    _control: CommandDispatcher
    _engine: StepEngine
    _publisher: Publisher | None

    def capture(
        self, layers: LayerPatterns, what: str = "activation", *, every: int = 1, keep: int = 1
    ) -> Capture:
        """Keep whole tensors of layers on the host, from this step on, or the next.

        what: "activation" (what the layer returns), "gradient" (of the loss with respect to that, after
            interventions), or "param_grad" (what the optimizer is given).
        every: in every so many steps. keep: the newest so many of these.

        `.tensors()` are copies, each with `.step .layer .name .tensor`. At most 256 MB are held by all
        captures of a run; what is beyond is left out and said in `.skipped`. Raises UsageError for what
        cannot be, UnknownLayerError where a pattern matches nothing.
        """
        checked = check_what(what)
        capture = self._captures.add(match_names(layers, self._names), checked, every=every, keep=keep)
        if self._engine.is_fresh:
            self._captures.start(self._engine.step)
        return capture

    def keep_snapshot(
        self,
        *optimizers: Optimizer,
        save: Callable[[int], object] | None = None,
        restore: Callable[[], object] | None = None,
    ) -> None:
        """Keep the training's state right before the first intervention takes effect.

        It costs a copy of model and optimizer in host memory from then on. Optimizers are found by
        themselves once they have stepped. With `save(step)` and `restore()` of your own, those are
        called instead. What is kept and what is not stands in `gradscope/agent/inspection/snapshot.py`.

        Raises UsageError where only one of the two is given, or something is no optimizer.
        """
        for optimizer in optimizers:
            if not isinstance(optimizer, Optimizer):
                raise UsageError(
                    f"keep_snapshot takes torch.optim.Optimizers, got {type(optimizer).__name__}"
                )
        self._way_back.enable(optimizers, save, restore)

    def undo_to_before(self) -> None:
        """Remove all interventions and put the state of before the first of them back, bit for bit.

        It takes effect between two steps. Learning goes on from there; the count of steps goes on, and
        the data loader stays where it is. Raises UsageError where no state was kept.
        """
        self._way_back.check()
        self._ledger.remove_all(lambda _step: self._way_back.restore())
        self._settle_if_fresh()

    def _look(self, model: Callable[[], nn.Module | None]) -> None:
        """Make the parts and add them to the engine."""
        self._captures = Captures(self._engine.modules, self._faults)
        sender = CaptureUpload(self._captures, self._hello, lambda: self._names, self._send)
        self._way_back = Snapshot(
            self._ledger,
            model,
            self._engine.optimizers,
            lambda code, text: self._tell("info", code, text),
        )
        for part in (self._captures, sender, self._way_back):
            self._engine.add(part)
        self._control.register(sender.commands())
        self._control.register(self._way_back.commands(), is_revising=True)

    def _send(self, make: Callable[[], Message]) -> None:
        if self._publisher is not None:
            self._publisher.put_now(make)

    @abstractmethod
    def _tell(self, level: str, code: str, text: str) -> None:
        """Make an event."""

    @abstractmethod
    def _settle_if_fresh(self) -> None:
        """Let requests take effect in this step where it has not begun to compute."""
