"""Rules over steps that lie in the past: of a recording, or whatever gives readings in order."""

from collections.abc import Iterable, Iterator, Sequence

from gradscope.protocol import Manifest, Scalars, Step
from gradscope.rules.alerts import Alert
from gradscope.rules.rule import Rule
from gradscope.rules.step_view import StepView
from gradscope.rules.table import default_rules

__all__ = ["readings_of", "run_over"]


def run_over(readings: Iterable[StepView], rules: Sequence[Rule] | None = None) -> Iterator[Alert]:
    """Yield what rules tell of readings, in order. Without any given: one of each, with its defaults.

    The same functions as run in the training process, so the same steps give the same alerts, but for
    a quick training, which judges only some of its steps. A rule remembers: take new ones for another
    run.
    """
    chosen = default_rules() if rules is None else rules
    for reading in readings:
        for rule in chosen:
            yield from rule.judge(reading)


def readings_of(messages: Iterable[Manifest | Step | Scalars], *, rank: int = 0) -> Iterator[StepView]:
    """Yield the readings of one rank's messages: a manifest, then its steps and scalars in order.

    A step of another revision of the manifest than the last one seen is passed over.
    """
    revision = -1
    names: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    for message in messages:
        if message.rank != rank:
            continue
        match message:
            case Manifest():
                layers = message.layers()
                revision = message.revision
                names, types = tuple(x.name for x in layers), tuple(x.type for x in layers)
            case Step() if message.manifest_revision == revision:
                yield StepView(message.step, names, message.block(), types=types)
            case Scalars():
                yield from _of_scalars(message)


def _of_scalars(message: Scalars) -> Iterator[StepView]:
    for place, step in enumerate(message.steps):
        values = {name: series[place] for name, series in message.values.items()}
        known = {name: value for name, value in values.items() if value is not None}
        yield StepView(step, (), None, scalars=known)
