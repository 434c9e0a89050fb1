"""`Focusing`: a Scope's closer look at a few layers, in steps between the observed ones."""

from abc import ABC
from collections.abc import Sequence
from functools import partial

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.inspection.focus import Focus
from gradscope.agent.link.messages import step_message
from gradscope.agent.link.publisher import Publisher
from gradscope.agent.observation.measurement import FinishedStep
from gradscope.agent.step.engine import StepEngine
from gradscope.budget import Sampler
from gradscope.columns import Table
from gradscope.errors import NotMeasuredError
from gradscope.intervene import Ledger
from gradscope.protocol import Hello

__all__ = ["Focusing"]


class Focusing(ABC):
    """The focus: set by the script, and by viewers for as long as they live."""

    run: str
    _hello: Hello
    _ledger: Ledger
    _control: CommandDispatcher
    _engine: StepEngine
    _publisher: Publisher | None
    _sequence: int
    _watched_names: tuple[str, ...]
    _latest_focus: FinishedStep | None = None

    def focus(self, *layers: str) -> tuple[str, ...]:
        """Measure these layers in further steps, from the next one on; none of them: no longer.

        layers: names or patterns as in `attach`, of at most 16 watched layers; they take the place of
        those given before. Viewers may look at others besides. Returns their names.

        Of what observing may cost at most half goes to the focus, and all layers are observed less
        often for it; with `every=N` it is every step. `latest_focus()` returns the newest, `focus_every` how
        often; a focus that could be seen no more often than all layers gains nothing, and is seldom
        seen. With several ranks, call it on all of them at the same place.

        Raises UsageError for what cannot be, as under torch.compile, and UnknownLayerError where a
        pattern matches nothing.
        """
        chosen = self._focus.check(layers) if layers else ()
        self._focus.set_layers(chosen)
        return chosen

    @property
    def focused(self) -> tuple[str, ...]:
        """The layers in the focus: the script's and those of viewers."""
        return self._focus.layers

    @property
    def focus_every(self) -> int:
        """Every how many steps the focus is measured at present; 0 where it is not."""
        return self._sampler.focus_every

    def latest_focus(self) -> Table:
        """Return the newest focus step: statistics of the layers in the focus only.

        `every` and `cost` are those of the focus. Raises NotMeasuredError before the first focus step.
        """
        if self._latest_focus is None:
            raise NotMeasuredError(
                "there has been no focus step yet: scope.focus(…) chooses layers, and they begin when the "
                "cost of observed steps is known"
            )
        return self._latest_focus.table(self._hello.rank)

    def _focus_on(self, sampler: Sampler) -> None:
        """Make the part and add it to the engine."""
        self._sampler = sampler
        self._focus = Focus(
            lambda: self._watched_names,
            self._apply_focus,
            lambda viewer: self._control.request("focus", target=viewer),
        )
        self._engine.add(self._focus)
        self._control.register({"focus": self._focus.prepare})

    def _apply_focus(self, layers: tuple[str, ...]) -> None:
        self._engine.focus(layers)
        self._sampler.focus(len(layers) / max(1, len(self._watched_names)))

    def _see_viewers(self, viewers: Sequence[str]) -> None:
        self._ledger.note_viewers(viewers)
        self._focus.on_viewers(viewers)

    def _on_focus_step(self, finished: FinishedStep) -> None:
        if not len(finished.block):  # the layers were not called, and own no parameters
            return
        self._latest_focus = finished
        if self._publisher is not None:
            make = partial(
                step_message,
                self.run,
                self._hello.rank,
                self._sequence,
                self._publisher.dropped,
                finished,
            )
            self._publisher.put(make, finished.block.nbytes)
