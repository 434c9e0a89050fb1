"""`RunStore` holds the data of one run, taken from the stream of its source.

A step is kept once, even if it is sent again after a reconnect. When a run of the same name restarts,
its step numbers go back: the store then drops the data of the earlier run and notes it in the log.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import Block
from gradscope.errors import ProtocolError
from gradscope.findings import Checked, Finding, Verdict, unreported
from gradscope.names import counted
from gradscope.protocol import (
    ActionInfo,
    Backfill,
    BreakpointState,
    Event,
    Interventions,
    InterventionState,
    Manifest,
    Memory,
    Message,
    PauseState,
    RankStates,
    RuleState,
    Scalars,
    Skipped,
    Step,
    Times,
)
from gradscope.protocol.bodies import unpack_block
from gradscope_tui.store.effects import Effects
from gradscope_tui.store.focus_steps import FocusSteps
from gradscope_tui.store.gaps import with_gaps
from gradscope_tui.store.heat import Heat
from gradscope_tui.store.histograms import HistogramRing
from gradscope_tui.store.journal import Entry, Journal, Level, entry_of
from gradscope_tui.store.layers import LayerTree, build_tree
from gradscope_tui.store.measure import QUANTITIES, Frame, MergePlan, measure, merge_plan, not_measured
from gradscope_tui.store.past_blocks import PastBlocks
from gradscope_tui.store.ranks import MergedStep, Ranks, Shown
from gradscope_tui.store.resources import ResourceStore
from gradscope_tui.store.ring import StepRing
from gradscope_tui.store.scalars import ScalarStore

__all__ = ["RunStore"]

_NAMES = tuple(quantity.name for quantity in QUANTITIES)


class RunStore:
    """Exists while its run is watched. `version` increases with each change that a view may show.

    `verdict` is over all findings of the run. `events` are other warnings and errors, such as a rule that
    failed, and breakpoints that were reached. `newest_failure` is the newest warning or error among them that
    is not from a backfill.

    `counters` has the number of steps `taken`, `again` (a duplicate), of `other_revision` (its layers
    are unknown) and `garbage` (undecodable), `withheld` by the hub and `dropped` by the agent.
    """

    def __init__(
        self,
        run: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.run = run
        self.model = ""
        self.device = ""
        self.measured_by = ""
        self.revision: int | None = None
        self.newest: Step | None = None
        self.block: Block | None = None
        self.actions: tuple[ActionInfo, ...] = ()
        self.interventions: tuple[InterventionState, ...] = ()
        self.interventions_revision: int | None = None
        self.effects = Effects()
        self.past_blocks = PastBlocks()
        self.breakpoints: tuple[BreakpointState, ...] = ()
        self.rules: tuple[RuleState, ...] = ()
        self.scalars = ScalarStore()
        self.resources = ResourceStore()
        self.ranks = Ranks(run)
        self.rank_states: RankStates | None = None
        self.journal = Journal()
        self.events = Journal()
        self.newest_failure: Entry | None = None
        self._findings: dict[tuple[str, tuple[str, ...], int | None], Finding] = {}
        self._verdict = Verdict.of(run, Checked(), ())
        self.pause: PauseState | None = None
        self._pause_ends_s = 0.0
        self.counters: Counter[str] = Counter()
        self.version = 0
        self.data_at: float | None = None
        self._clock, self._wall = clock, wall
        self._is_backfilling = False
        self.tree = build_tree(())
        self.ring = StepRing(_NAMES, 0)
        self.histograms = HistogramRing()
        self.focus_steps = FocusSteps(clock)
        self._plan: MergePlan | None = None
        self._heat: dict[str, NDArray[np.int8]] = {}
        self._forget_newest_step()

    def feed(self, item: Message | Mapping[int, Step]) -> None:
        """Take a message, or a step of all ranks. Items of another run are ignored."""
        if isinstance(item, Mapping):
            if any(step.run != self.run for step in item.values()):
                return
            self._feed(self.ranks.merged_to_show(item))
        elif getattr(item, "run", None) == self.run:
            self._feed(self.ranks.messages_to_show(item))
            self.version += 1

    def choose_rank(self) -> str:
        """Show the next selection of ranks with its past; return its label."""
        self._clear_steps()
        self._feed(self.ranks.choose_next())
        self.version += 1
        return self.ranks.in_words()

    def _feed(self, shown: Iterable[Shown]) -> None:
        for item in shown:
            self._take(item)

    def _take(self, message: Shown) -> None:
        match message:
            case Manifest():
                self._take_manifest(message)
            case Step(layers="focus"):
                if message.manifest_revision == self.revision:
                    self.focus_steps.insert(message, self.tree.layers)
            case Step():
                self._take_step(message)
            case MergedStep():
                self._take_block(message.first, message.block)
                self.version += 1
            case Memory() | Times():
                names = [layer.name for layer in self.tree.layers]
                self.resources.insert(message, names, self.revision)
            case Scalars():
                self._take_scalars(message)
            case Event():
                self._take_event(message)
            case Interventions():
                self._take_interventions(message)
            case RankStates():
                self.rank_states = message
            case Skipped():
                self.counters["withheld"] += message.count
            case Backfill():
                self._is_backfilling = message.state == "begin"

    def frame(self, trend_width: int = 24) -> Frame:
        """Return the newest step as the views show it."""
        return Frame(
            tree=self.tree,
            measured=self._measured,
            heat=dict(self._heat),
            trend=with_gaps(self.ring.steps(trend_width), _trend(self.ring, trend_width)),
            block=self.block,
        )

    def past_steps(self) -> list[int]:
        """Return the past observed steps whose whole numbers are kept, in order."""
        return [step for step, _ in self.past_blocks]

    def past_frame(self, step: int, trend_width: int = 24) -> Frame | None:
        """Return a kept past step as `frame` returned it, without marks of unusual numbers; None if it is not kept."""
        block = next((block for kept, block in self.past_blocks if kept == step), None)
        if block is None:
            return None
        steps = self.ring.steps(trend_width, step)
        return Frame(
            tree=self.tree,
            measured=measure(block, self.tree, step),
            heat={name: np.zeros(len(self.tree), np.int8) for name in _NAMES},
            trend=with_gaps(steps, _trend(self.ring, trend_width, step)),
            block=block,
        )

    @property
    def verdict(self) -> Verdict:
        """What is wrong with the run, and what was checked."""
        if self._verdict.checked.steps or self.step is None:
            return self._verdict
        return replace(self._verdict, checked=unreported(self.step + 1))

    @property
    def unreadable(self) -> int:
        """The number of messages that could not be decoded, or did not fit the layers."""
        parts = (self.ranks, self.focus_steps, self.resources)
        return self.counters["garbage"] + sum(part.unreadable for part in parts)

    def age_s(self) -> float | None:
        """Return the age of the newest data in seconds; None if there is none."""
        return None if self.data_at is None else max(0.0, self._clock() - self.data_at)

    def pause_left_s(self) -> float:
        """Return the remaining seconds of the lease of a pause; 0 without a pause."""
        return max(0.0, self._pause_ends_s - self._clock())

    @property
    def step(self) -> int | None:
        """The newest step with statistics or scalars."""
        known = [s for s in (self.ring.newest, (self.scalars.newest or (None,))[0]) if s is not None]
        return max(known, default=None)

    def note(self, level: Level, text: str, step: int | None = None) -> None:
        """Add a line of this viewer to the log, at `step` or the newest one."""
        self.journal.add(Entry(self._wall(), self.step if step is None else step, level, text))
        self.version += 1

    def _take_manifest(self, message: Manifest) -> None:
        tree = build_tree(self.ranks.layers)
        is_first = self.revision is None
        self.model, self.device, self.revision = message.model, message.device, message.revision
        self.actions, self.measured_by = message.actions, message.measured_by
        if tree.layers == self.tree.layers:
            return
        self._set_tree(tree)
        if not is_first:
            text = f"the model changed: {counted(len(tree), 'layer')}, revision {message.revision}"
            self.note("info", text)

    def _take_step(self, message: Step) -> None:
        if message.manifest_revision != self.revision:
            self.counters["other_revision"] += 1
            return
        try:
            block = unpack_block(message)
        except ProtocolError:
            self.counters["garbage"] += 1
        else:
            self._take_block(message, block)

    def _take_block(self, message: Step, block: Block) -> None:
        newest = self.newest
        if newest and message.step <= newest.step and message.time_s > newest.time_s:
            self._restart(message.step)
            newest = None
        self._plan = merge_plan(block, self.tree, self._plan)
        measured = measure(block, self.tree, message.step, self._plan)
        if not self.ring.insert(message.step, dict(measured.values)):
            self.counters["again"] += 1
            return
        self.histograms.insert(message.step, block)
        self.past_blocks.add(message.step, block)
        self.counters["taken"] += 1
        self._note_data(message.time_s)
        self.scalars.note_time(message.step, message.time_s)
        if newest and message.step < newest.step:
            return
        self.counters["dropped"] = message.dropped
        self.newest, self.block, self._measured = message, block, measured
        self._heat = {
            name: past.next_levels(measured.values[name]) for name, past in self._pasts.items()
        }

    def _take_scalars(self, message: Scalars) -> None:
        newest = self.scalars.newest
        if not message.steps or not message.times_s:
            return
        if newest and message.steps[0] < newest[0] and message.times_s[0] > newest[1]:
            self._restart(message.steps[0])
        if not newest or message.times_s[-1] > newest[1]:
            self._note_data(message.times_s[-1])
        self.scalars.insert(message)

    def _take_event(self, event: Event) -> None:
        if event.checked is not None:
            if event.checked.steps >= self._verdict.checked.steps:
                self._verdict = replace(self._verdict, checked=event.checked)
            return
        entry = entry_of(event)
        self.journal.add(entry)
        if entry.finding is not None:
            key = entry.finding.code, entry.finding.layers, entry.finding.found_step
            self._findings[key] = entry.finding
            self._verdict = Verdict.of(self.run, self._verdict.checked, self._findings.values())
        elif entry.level != "info" or entry.code == "breakpoint":
            is_new = self.events.add(entry)
            if is_new and entry.level != "info" and not self._is_backfilling:
                self.newest_failure = entry

    def _take_interventions(self, message: Interventions) -> None:
        self.effects.note(message)
        self.interventions = message.entries
        self.interventions_revision = message.revision
        self.breakpoints, self.rules = message.breakpoints, message.rules
        self.pause = message.pause
        self._pause_ends_s = self._clock() + (message.pause.left_s if message.pause else 0.0)

    def _set_tree(self, tree: LayerTree) -> None:
        """Replace the tree. A layer that is in both trees keeps its past steps."""
        before = {layer.name: i for i, layer in enumerate(self.tree.layers)}
        sources = [before.get(layer.name, -1) for layer in tree.layers]
        self.ring = self.ring.remapped(np.array(sources, np.intp))
        self.tree = tree
        self.histograms.clear()
        self.past_blocks.clear()
        self.focus_steps.clear()
        self._forget_newest_step()

    def _forget_newest_step(self) -> None:
        nodes = len(self.tree)
        self._measured = not_measured(nodes)
        self._pasts = {name: Heat(nodes) for name in _NAMES}
        self._heat = {name: np.zeros(nodes, np.int8) for name in _NAMES}
        self.block = None

    def _clear_steps(self) -> None:
        self.ring.clear()
        self.histograms.clear()
        self.past_blocks.clear()
        self.focus_steps.clear()
        self.scalars.clear()
        self.newest = None
        self._forget_newest_step()

    def _restart(self, step: int) -> None:
        self._clear_steps()
        self.resources.clear()
        self.effects.clear()
        self._findings.clear()
        self._verdict = Verdict.of(self.run, Checked(), ())
        self.note("info", f"the run restarted at step {step}", step)

    def _note_data(self, time_s: float) -> None:
        """Set the time of the newest data: live data by its arrival, a backfill by its sender's clock."""
        age_s = max(0.0, self._wall() - time_s) if self._is_backfilling else 0.0
        at = self._clock() - age_s
        self.data_at = at if self.data_at is None else max(at, self.data_at)


def _trend(ring: StepRing, width: int, until: int | None = None) -> NDArray[np.float32]:
    """Return norms of the output gradients, or of the parameter gradients if a node has none.

    Shape (steps, nodes).
    """
    at_outputs = ring.matrix("grad_norm", width, until)
    at_parameters = ring.matrix("param_grad_norm", width, until)
    return np.where(np.isnan(at_outputs).all(axis=0), at_parameters, at_outputs)
