"""`FindingMonitor`: checks the wiring of a run, keeps its findings and reports each once."""

import time
import weakref
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Final

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.diagnosis.clip_watch import ClipWatch
from gradscope.agent.diagnosis.copies_probe import CopiesProbe
from gradscope.agent.diagnosis.forward_probe import ForwardProbe
from gradscope.agent.diagnosis.graph_walk import walk_graph
from gradscope.agent.diagnosis.wiring_facts import (
    OutputCounts,
    gather,
    gather_copies,
    optimizers_in_process,
    output_counts,
    tied_names,
    with_outputs,
)
from gradscope.agent.diagnosis.zero_grad_probe import ZeroGradProbe
from gradscope.agent.observation.observed_step import ObservedStep
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.agent.step.unregistered import unregistered_parameters
from gradscope.findings import Finding
from gradscope.findings.facts import WiringFacts
from gradscope.findings.graph import find_graph_faults
from gradscope.findings.text import log_line
from gradscope.findings.wiring import find_copied_model, find_wiring_faults
from gradscope.hooks import BackwardRootHook, has_compiled, hidden_from_modes, parameters_of
from gradscope.notice import print_notice
from gradscope.protocol import Event

__all__ = ["FindingMonitor"]

_ROUND: Final = 5
"""The number of consecutive steps whose facts a round of checks gathers."""

_MOST_KINDS: Final = 3
"""If optimizers step in turn, as in a GAN, a round has `_ROUND` steps of each kind, up to this number of kinds."""

_GRAPHS: Final = 4
"""The number of backward passes whose graph is checked: a program may have several losses."""

_SEVERITIES: Final = ("error", "warning", "hint")

_FIRST_PAUSE: Final = 50
"""Steps between the first two rounds; each later pause is twice as long."""


class FindingMonitor(StepPlugin):
    """Checks the wiring in rounds: in the first steps, later rarely, and after each change of the model."""

    name = "the findings"

    def __init__(self, run: RunContext, engine: StepEngine, *, is_quiet: bool = False) -> None:
        self._run = run
        self._engine = engine
        self._is_quiet = is_quiet
        self._found: dict[tuple[str, tuple[str, ...]], Finding] = {}
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._stepped: set[int] = set()
        self._fed: set[int] = set()
        self._with_gradient: set[int] = set()
        self._probe = ZeroGradProbe()
        self._forward = ForwardProbe(self._give_up_forward)
        self._is_first_round = True
        self._roots = BackwardRootHook(self._check_graph)
        self._graphs = 0
        self._first_step = engine.step
        """Forwards are not watched in it: a model that is compiled is traced there, with all hooks."""
        self._clips = ClipWatch(self._knows, run.settings.scaler)
        model = run.model()
        self._tied = () if model is None else tied_names(model)
        self._copies = CopiesProbe(model)
        self._begins_at, self._pause = engine.step, _FIRST_PAUSE
        self._revision = engine.tracker.revision
        self._history: deque[WiringFacts] = deque(maxlen=_ROUND * _MOST_KINDS)
        self._kinds: set[frozenset[int]] = set()
        self._waiting: dict[int, WiringFacts] = {}
        self._counts: dict[int, OutputCounts] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of the run, in the order in which they were found."""
        return tuple(self._found.values())

    @property
    def graphs_checked(self) -> int:
        """The number of backward passes whose graph was checked."""
        return self._graphs

    def next_active_step(self, step: int) -> int:
        """Return the first step of the next round; `step` during a round."""
        return max(step, self._begins_at)

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Watch whether the gradients of the previous step are still there when backward begins, and clipping."""
        if is_observed:
            self._clips.begin()
        self._stepped.clear()
        self._fed.clear()
        self._with_gradient.clear()
        self._probe.begin()
        model = self._run.model()
        if max(self._begins_at, self._first_step + 1) <= step and model is not None:
            self._forward.install(model)
        if self._graphs < _GRAPHS and not has_compiled():
            self._roots.install()

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Note which parameters have a gradient."""
        model = self._run.model()
        if model is None:
            return
        self._clips.before_optimizer(optimizer)
        self._add_optimizer(optimizer)
        self._stepped.add(id(optimizer))
        every = chain(model.parameters(), unregistered_parameters(model).values())
        self._with_gradient.update(id(p) for p in every if p.grad is not None)
        if any(p.grad is not None for p in parameters_of(optimizer)):
            self._fed.add(id(optimizer))

    def no_step_ends(self, reason: str) -> None:  # noqa: ARG002 - the signature of a plugin
        """Find out whether an optimizer holds the parameters of another copy of the model."""
        model = self._run.model()
        if model is not None:
            self.report(find_copied_model(gather_copies(model, self._engine.step, self._copies)))

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - as above
        """Gather the facts of the step that ends, which the checks need."""
        model = self._run.model()
        self._roots.remove()
        self._forward.remove()
        left, clipped_at_scale = self._probe.end(self._stepped), self._clips.end()
        if model is None or step < self._begins_at:
            return
        optimizers = self._living_optimizers(model)
        self._probe.choose_parameters(
            model,
            {
                id(each): {id(parameter) for parameter in parameters_of(each)} & self._with_gradient
                for each in optimizers
                if id(each) in self._stepped
            },
        )
        if self._is_first_round:
            self._forward.keep_as_first()
        facts = gather(
            model,
            step,
            optimizers,
            stepped=self._stepped,
            fed=self._fed,
            with_gradient=self._with_gradient,
            left_gradients=left,
            tied=self._tied,
            clipped_at_scale=clipped_at_scale,
            forward=self._forward,
            unwritten=self._copies.unwritten(model, optimizers),
        )
        if not is_observed:
            self._add(facts)
        elif step in self._counts:
            self._complete(facts, self._counts.pop(step))
        else:
            self._waiting[step] = facts

    def observed(self, step: ObservedStep) -> None:
        """Add to the facts of a step which layers ran."""
        if self._engine.tracker.revision != self._revision:
            self._revision = self._engine.tracker.revision
            self._start_round(self._engine.step + 1)
        facts = self._waiting.pop(step.step, None)
        if facts is not None:
            self._complete(facts, output_counts(step.names, step.block))
        elif step.step >= self._begins_at:
            self._counts = {step.step: output_counts(step.names, step.block)}

    def close(self) -> None:
        """Remove all hooks."""
        self._roots.remove()
        self._forward.remove()
        self._probe.forget()
        self._clips.end()

    def report(self, findings: Sequence[Finding]) -> None:
        """Keep findings that are new or have become worse, and report them to viewers, the recording and stderr."""
        for finding in findings:
            key = finding.code, finding.layers
            known = self._found.get(key)
            if known is not None and _SEVERITIES.index(known.severity) <= _SEVERITIES.index(
                finding.severity
            ):
                continue
            is_first = not any(each.severity == "error" for each in self._found.values())
            self._found[key] = finding
            self._run.reported_codes.add(finding.code)
            self._run.publisher.put_and_send(partial(self._event, finding))
            if finding.severity == "error" and is_first and not self._is_quiet:
                print_notice(log_line(finding))
            self._run.pass_on(finding)

    def _knows(self, parameters: list[torch.Tensor]) -> bool:
        return self._engine.tracker.measurement.parameters.knows(parameters)

    def _check_graph(self, tensors: list[torch.Tensor]) -> None:
        """Check the graph of a backward pass that begins. Must not raise: the script is calling."""
        model = self._run.model()
        if model is None or self._graphs >= _GRAPHS:
            return
        try:
            with hidden_from_modes():
                facts = walk_graph(tensors, model, self._engine.step)
                if facts is not None:
                    self._graphs += 1
                    self.report(find_graph_faults(facts))
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._graphs = _GRAPHS
            self._run.faults.report("the check of the graph", error, "It is off; training continues.")

    def _give_up_forward(self, error: Exception) -> None:
        self._run.faults.report("the check of number formats", error, "It is off; training continues.")

    def _complete(self, facts: WiringFacts, counts: OutputCounts) -> None:
        self._add(with_outputs(facts, counts, self._engine.tracker.watched_names))

    def _add(self, facts: WiringFacts) -> None:
        self._history.append(facts)
        self._kinds.add(frozenset(i for i, each in enumerate(facts.optimizers) if each.has_stepped))
        self.report(find_wiring_faults(self._history))
        if facts.step >= self._begins_at + _ROUND * min(_MOST_KINDS, len(self._kinds)) - 1:
            self._start_round(facts.step + self._pause)
            self._pause *= 2

    def _start_round(self, step: int) -> None:
        if step > self._engine.step + 1:
            self._probe.forget()
            self._is_first_round = False
        self._begins_at = step
        self._history.clear()
        self._kinds.clear()
        self._waiting.clear()
        self._run.plan_again()

    def _add_optimizer(self, optimizer: Optimizer) -> None:
        if not any(each() is optimizer for each in self._optimizers):
            self._optimizers.append(weakref.ref(optimizer))

    def _living_optimizers(self, model: nn.Module) -> list[Optimizer]:
        for optimizer in self._engine.optimizers():
            self._add_optimizer(optimizer)
        if self._is_incomplete(model):
            for optimizer in optimizers_in_process(model):
                self._add_optimizer(optimizer)
        return self._known()

    def _known(self) -> list[Optimizer]:
        return [optimizer for each in self._optimizers if (optimizer := each()) is not None]

    def _is_incomplete(self, model: nn.Module) -> bool:
        """Return whether a parameter has a gradient and no known optimizer holds it."""
        held = {id(parameter) for each in self._known() for parameter in parameters_of(each)}
        left_out = self._with_gradient - held
        return any(p.requires_grad and id(p) in left_out for p in model.parameters())

    def _event(self, finding: Finding) -> Event:
        return Event(
            run=self._run.hello.run,
            rank=self._run.hello.rank,
            step=finding.found_step or 0,
            time_s=time.time(),
            level="info" if finding.severity == "hint" else finding.severity,
            code=f"finding.{finding.code}",
            text=finding.message,
            finding=finding,
        )
