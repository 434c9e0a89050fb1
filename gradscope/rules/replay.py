"""Running rules over recorded steps."""

import heapq
from collections.abc import Iterable, Iterator, Sequence

from gradscope.protocol import Manifest, Scalars, Step, unpack_layers
from gradscope.protocol.bodies import unpack_block
from gradscope.rules.alerts import Alert
from gradscope.rules.rule import Rule, default_rules
from gradscope.rules.step_view import StepView

__all__ = ["replay_rules", "views_of"]


def replay_rules(views: Iterable[StepView], rules: Sequence[Rule] | None = None) -> Iterator[Alert]:
    """Yield the alerts of `rules` over steps in order. Default: one rule of each kind with its defaults.

    These are the functions that run in the training process, so the same steps give the same alerts. (A
    run with very short steps judges only some of them live.) A rule keeps state: use new rules for each run.
    """
    chosen = default_rules() if rules is None else rules
    for view in views:
        for rule in chosen:
            yield from rule.judge(view)


def views_of(
    messages: Iterable[Manifest | Step], scalars: Iterable[Scalars] = (), *, rank: int = 0
) -> Iterator[StepView]:
    """Yield a `StepView` for each step and each step's scalars of one rank, in the order of the steps.

    `messages` starts with a manifest. A step whose manifest revision is not the newest one is skipped. The
    scalars of a step come after its statistics, as in the training process.
    """
    return heapq.merge(
        _step_views(messages, rank), _scalar_views(scalars, rank), key=lambda view: view.step
    )


def _step_views(messages: Iterable[Manifest | Step], rank: int) -> Iterator[StepView]:
    revision = -1
    names: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    for message in messages:
        if message.rank != rank:
            continue
        match message:
            case Manifest():
                layers = unpack_layers(message)
                revision = message.revision
                names, types = tuple(x.name for x in layers), tuple(x.type for x in layers)
            case Step() if message.manifest_revision == revision and message.layers == "all":
                yield StepView(message.step, names, unpack_block(message), types=types)


def _scalar_views(messages: Iterable[Scalars], rank: int) -> Iterator[StepView]:
    for message in messages:
        if message.rank != rank:
            continue
        for place, step in enumerate(message.steps):
            values = {name: series[place] for name, series in message.values.items()}
            known = {name: value for name, value in values.items() if value is not None}
            if known.keys() - {"step_time_s"}:
                yield StepView(step, (), None, scalars=known)
