"""`Client`: a connection to a hub, to observe and change one run."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Self, TypeVar, Unpack

from gradscope.access import CurveKeys
from gradscope.client.captured_tensors import CapturedArray
from gradscope.client.command_sender import (
    TIMEOUT_S,
    CommandSender,
    How,
    Layers,
    install_command,
    link_in_words,
)
from gradscope.client.inbox import Item
from gradscope.client.run_selection import only_live_run
from gradscope.client.session import Session
from gradscope.client.state import RunState
from gradscope.client.watched_run import Ranks, WatchedRun
from gradscope.columns import MemoryTable, Table, TimesTable
from gradscope.errors import LinkError
from gradscope.protocol import (
    Ack,
    BreakpointState,
    Command,
    Hello,
    Interventions,
    InterventionState,
    Manifest,
    Message,
    PauseState,
    RankStates,
    RuleSetting,
    RuleState,
    RunInfo,
    Step,
)
from gradscope.transport import LinkState

__all__ = ["Client"]

_LAST_STEPS_S = 1.0
_LOST_S = 15.0
_POLL_S = 0.25

Value = TypeVar("Value")


class Client:
    """A connection to a hub, created by `connect`. Also a context manager. It never starts a hub.

    A script calls `latest`, `steps`, `manifest`, `interventions`, and the commands. A UI calls `watch`,
    and calls `take` after each call of `on_arrival`. A loop calls `watch` and `receive`.

    `on_arrival()` is called in the client's thread when messages arrive, and not again until all of
    them have been taken.
    """

    def __init__(
        self,
        address: str,
        hello: Hello,
        set_by: str,
        on_arrival: Callable[[], object] | None = None,
        keys: CurveKeys | None = None,
    ) -> None:
        self.run: str | None = None
        self._session = Session(address, hello, on_arrival, keys)
        self._watched = WatchedRun(self._session, self._chosen)
        self._commands = CommandSender(self._session, self._chosen, hello.peer, set_by)

    @property
    def link(self) -> LinkState:
        """The state of the link to the hub."""
        return self._session.state

    @property
    def counters(self) -> dict[str, int]:
        """The numbers of messages that this client has sent, received, dropped and could not decode."""
        return self._session.counters

    def runs(self, timeout_s: float = 2.0) -> list[RunInfo]:
        """Request the list of runs from the hub. Return all ranks of all runs, live runs first.

        Raises LinkError if the hub does not answer within `timeout_s`.
        """
        known = self._session.known
        count = known.runs_count
        self._session.ask_for_runs()
        found = known.wait(lambda: known.runs if known.runs_count > count else None, timeout_s)
        if found is None:
            raise LinkError(
                f"the hub did not list its runs in {timeout_s:g} s; {link_in_words(self.link)}"
            )
        return list(found)

    def rank_states(self, timeout_s: float = 2.0) -> dict[str, RankStates]:
        """Request how the ranks of all live runs with several ranks are doing, by run. Raises as `runs` does.

        `standing_out(states.ranks)` of `gradscope.protocol.standing_out` says which of them stand out, and why.
        """
        self.runs(timeout_s)
        return dict(self._session.known.rank_states)

    def watch(
        self,
        run: str,
        *,
        max_rate_hz: float = 4.0,
        backfill: bool = True,
        ranks: Ranks = "each",
    ) -> None:
        """Subscribe to a run. Read its stream with `take`, `receive` or `steps`.

        max_rate_hz: the hub sends at most this many steps per second and rank.
        backfill: first send the past steps that the hub has kept.
        ranks: "each": the messages of each rank. "merged": the hub merges the steps of all ranks, so the traffic does
            not grow with the ranks; `Step.ranks` names them. A number: only the messages of this rank. Events come
            from all ranks in any case.

        Keep reading: after 32 unread steps, the hub skips newer ones and reports their number with
            `Skipped`.
        """
        self.run = run
        self._watched.watch(run, ranks, max_rate_hz=max_rate_hz, backfill=backfill, is_listening=True)

    def take(self, most: int) -> list[Item]:
        """Return the oldest unread items of the stream, at most `most`, without waiting.

        An item is a message, as in `receive`, or a step of the run: a dict with the Step of each rank.
        The dict follows the messages of that step as soon as all ranks have reported the step.
        """
        items = self._session.inbox.take(most)
        self._session.note_read()
        return items

    def receive(self, timeout_s: float) -> list[Message]:
        """Return the unread messages in order, after waiting up to `timeout_s` for the first one.

        Their types are Runs, Manifest, Step, Memory, Times, Scalars, Event, Interventions, Skipped,
        Backfill and Refusal.
        """
        items = self._session.inbox.take(timeout_s=timeout_s)
        self._session.note_read()
        return [item for item in items if not isinstance(item, dict)]

    def steps(self, timeout_s: float | None = None, *, rank: int | None = None) -> Iterator[Table]:
        """Iterate over the run's steps as tables: past steps that the hub has kept, then live steps.

        With several ranks, a table contains the merged rows of all of them. It is yielded when every
        rank has reported that step or a later one (`.missing` names the latter ranks). `rank` selects
        the rows of one rank.

        Ends when the run ends, or after `timeout_s` without a step. Raises LinkError if the hub is lost
        for 15 s. Other messages that arrive in the meantime are not kept for `receive`.
        """
        known = self._session.known

        def table(item: Item) -> Table | None:
            if rank is None and isinstance(item, dict):
                return known.table(item)
            if isinstance(item, Step) and item.layers == "all" and item.rank == rank:
                return known.table({rank: item}, is_of_all=False)
            return None

        return self._stream(table, timeout_s, rank=rank, needs_steps=True)

    def focus_steps(self, timeout_s: float | None = None, *, rank: int = 0) -> Iterator[Table]:
        """Iterate over the focus steps of a rank as they arrive. They cover the layers in the focus only.

        Focus steps are recorded between observed steps while any viewer or the script has set a focus
        (`focus`). `every` and `cost` of a table refer to focus steps. Past focus steps are not kept.
        Ends and raises as `steps` does.
        """
        known = self._session.known

        def table(item: Item) -> Table | None:
            if isinstance(item, Step) and item.layers == "focus" and item.rank == rank:
                return known.table({rank: item}, is_of_all=False)
            return None

        return self._stream(table, timeout_s, rank=rank)

    def _stream(
        self,
        table_of: Callable[[Item], Table | None],
        timeout_s: float | None,
        *,
        rank: int | None,
        needs_steps: bool = False,
    ) -> Iterator[Table]:
        run = self._chosen()
        if not (self._session.is_listening and self._watched.sends(rank, needs_steps=needs_steps)):
            self._watched.watch_every_step(rank, needs_steps=needs_steps, is_listening=True)
        last_s = time.monotonic()
        ended_s: float | None = None
        while True:
            item = self._session.inbox.take_one(time.monotonic() + _POLL_S)
            self._session.note_read()
            now_s = time.monotonic()
            table = None if item is None else table_of(item)
            if table is not None:
                yield table
                last_s = time.monotonic()
                continue
            if timeout_s is not None and now_s - last_s > timeout_s:
                return
            ended_s = None if self._is_live(run) else ended_s or now_s
            if item is None and ended_s and now_s - ended_s > _LAST_STEPS_S + 1 / self._watched.rate_hz:
                return
            self._check_link(now_s)

    def latest(self, timeout_s: float = 5.0, *, rank: int | None = None) -> Table:
        """Return the newest step, waiting up to `timeout_s` for the first one.

        With several ranks, this is the newest step that all have reported, with merged rows. If there
        is none within `timeout_s`, it is the newest step of some ranks (`.missing` names the others).
        `rank` selects the rows of one rank. Raises LinkError if no step arrives in time.
        """
        self._watched.ensure(rank, needs_steps=True)
        known = self._session.known

        def newest_table() -> Table | None:
            if not known.is_synchronised:
                return None
            newest = known.newest_whole() if rank is None else known.newest_step(rank)
            return None if newest is None else known.table(newest, is_of_all=rank is None)

        found = known.wait(newest_table, timeout_s)
        part = known.newest_part() if found is None and rank is None else None
        return self._found(found if part is None else known.table(part), "step", timeout_s)

    def memory(self, timeout_s: float = 5.0, *, rank: int = 0) -> MemoryTable:
        """Return the memory of the newest measured step, waiting up to `timeout_s` for the first one.

        Raises LinkError if none arrives in time; note that memory is measured in few steps.
        """
        return self._newest(lambda known: known.memory(rank), "memory data", timeout_s, rank=rank)

    def times(self, timeout_s: float = 5.0, *, rank: int = 0) -> TimesTable:
        """Return the times of the newest measured step. Waits and raises as `memory` does."""
        return self._newest(lambda known: known.times(rank), "time data", timeout_s, rank=rank)

    def manifest(self, timeout_s: float = 5.0, *, rank: int = 0) -> Manifest:
        """Return the newest manifest (list of layers) of a rank. Raises LinkError if none arrives in time."""
        self._watched.ensure(rank)
        known = self._session.known
        return self._found(known.wait(lambda: known.manifest(rank), timeout_s), "manifest", timeout_s)

    def interventions(self, timeout_s: float = 5.0) -> tuple[InterventionState, ...]:
        """Return the active and pending interventions. Raises LinkError if the hub does not answer."""
        newest = self._state(timeout_s)
        return newest.entries if newest else ()

    def paused(self, timeout_s: float = 5.0) -> PauseState | None:
        """Return the pause of the run: its step and its lease. None while training runs."""
        state = self._state(timeout_s)
        return state.pause if state else None

    def breakpoints(self, timeout_s: float = 5.0) -> tuple[BreakpointState, ...]:
        """Return the breakpoints of the run."""
        state = self._state(timeout_s)
        return state.breakpoints if state else ()

    def rules(self, timeout_s: float = 5.0) -> tuple[RuleState, ...]:
        """Return the rules that the script and viewers have set. The other rules have their defaults."""
        state = self._state(timeout_s)
        return state.rules if state else ()

    # Commands. Each waits until it is in force and returns the Ack with that step. They raise
    # CommandRefusedError with the reason if the hub or the training process refuses, and
    # CommandTimeoutError if no answer came within `timeout_s`.

    def send(self, command: Command) -> Future[Ack]:
        """Send a command without waiting. Return a Future of the Ack; it may raise CommandRefusedError.

        Fills in `id`, `run`, `peer` and `set_by`.
        """
        return self._commands.send(command)

    def intervene(
        self,
        layers: Layers,
        name: str,
        *,
        arguments: Mapping[str, float | str] | None = None,
        **how: Unpack[How],
    ) -> Ack:
        """Install an intervention by name: a built-in one, or one that the script has registered.

        `layers` is a name or pattern, or several. Raises UsageError for an invalid schedule.
        """
        command = install_command(layers, name, arguments or {}, how)
        return self._commands.ask(command, how.get("timeout_s", TIMEOUT_S))

    def reverse(self, layers: Layers, *, alpha: float = 1.0, **how: Unpack[How]) -> Ack:
        """Multiply the gradients of layers by -alpha."""
        return self.intervene(layers, "reverse", arguments={"alpha": alpha}, **how)

    def scale(self, layers: Layers, *, factor: float, **how: Unpack[How]) -> Ack:
        """Multiply the gradients of layers by `factor`."""
        return self.intervene(layers, "scale", arguments={"factor": factor}, **how)

    def clip(self, layers: Layers, *, max_norm: float, per: str = "tensor", **how: Unpack[How]) -> Ack:
        """Scale the gradients of layers down to a norm of at most `max_norm`.

        per: "tensor": each gradient separately; "layer": all gradients of a layer as one vector; "all":
            all gradients as one vector (with site="params" only).
        """
        return self.intervene(layers, "clip", arguments={"max_norm": max_norm, "per": per}, **how)

    def clamp(self, layers: Layers, *, limit: float, **how: Unpack[How]) -> Ack:
        """Limit each element of the gradients of layers to ± `limit`."""
        return self.intervene(layers, "clamp", arguments={"limit": limit}, **how)

    def stop(self, layers: Layers, **how: Unpack[How]) -> Ack:
        """Set the gradients of layers to zero."""
        return self.intervene(layers, "stop", **how)

    def noise(
        self,
        layers: Layers,
        *,
        std: float,
        seed: int = 0,
        relative: bool = False,
        **how: Unpack[How],
    ) -> Ack:
        """Add Gaussian noise to the gradients. `relative`: `std` is a fraction of the gradient's std."""
        arguments = {"std": std, "seed": seed, "relative": relative}
        return self.intervene(layers, "noise", arguments=arguments, **how)

    def remove(self, target: str, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Remove the intervention with this id."""
        return self._commands.ask(Command(action="remove", target=target), timeout_s)

    def remove_all(self, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Remove all interventions of the run."""
        return self._commands.ask(Command(action="remove_all"), timeout_s)

    def undo(self, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Remove all interventions, and restore the training state from before the first of them.

        Requires a snapshot: the script must have called `scope.keep_snapshot()`.
        """
        return self._commands.ask(Command(action="undo"), timeout_s)

    def pause(self, *, lease_s: float | None = None, timeout_s: float = TIMEOUT_S) -> Ack:
        """Pause training at the next step boundary for `lease_s` seconds: 60 by default, at most 300.

        Pausing again renews the lease. The step of the Ack is the first step that is held.
        """
        return self._commands.ask(Command(action="pause", lease_s=lease_s), timeout_s)

    def resume(self, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Resume training. The step of the Ack is the first step that runs."""
        return self._commands.ask(Command(action="resume"), timeout_s)

    def step_once(self, *, lease_s: float | None = None, timeout_s: float = TIMEOUT_S) -> Ack:
        """Run one step, and pause before the next one. Returns when training is paused again.

        The step of the Ack is the step that has run.
        """
        self._watched.ensure_any()
        return self._commands.step_once(timeout_s, lease_s)

    def breakpoint(
        self, condition: str, *, lease_s: float | None = None, timeout_s: float = TIMEOUT_S
    ) -> str:
        """Pause training when a condition becomes true, such as `loss > 10`; return its id."""
        return self._commands.ask(
            Command(action="break", condition=condition, lease_s=lease_s), timeout_s
        ).id

    def remove_breakpoint(self, id: str = "", *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Remove a breakpoint, or all breakpoints if `id` is empty."""
        return self._commands.ask(Command(action="unbreak", target=id), timeout_s)

    def rule(
        self,
        rule: str,
        *,
        action: str = "event",
        threshold: float | tuple[float, float] | None = None,
        patience: int | None = None,
        layers: Layers = (),
        end_s: float | None = None,
        is_kept: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> str:
        """Set a rule of the run; return its id. It replaces the rule of the same name and layers while it is set.

        rule: a name of `gradscope.rules.RULES`, or a condition such as "loss > 10". action, threshold, patience,
            layers: as in `Scope.rule`, without the actions "raise" and functions.
        end_s: remove it after this time. is_kept: keep it until it is removed. By default it ends 60 s after this
            client has closed.
        """
        limits = (
            threshold if isinstance(threshold, tuple) else () if threshold is None else (threshold,)
        )
        patterns = (layers,) if isinstance(layers, str) else tuple(layers)
        setting = RuleSetting(rule, action, limits, patience, patterns)
        command = Command(action="rule", rule=setting, end_s=end_s, is_kept=is_kept)
        return self._commands.ask(command, timeout_s).id

    def remove_rule(self, id: str = "", *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Remove a rule that a viewer has set, or all of them if `id` is empty. What was before it is active again."""
        return self._commands.ask(Command(action="unrule", target=id), timeout_s)

    def measure_now(self, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Measure memory and time in the next step, regardless of the budget. The Ack contains that step."""
        return self._commands.ask(Command(action="measure"), timeout_s)

    def focus(self, *layers: str, timeout_s: float = TIMEOUT_S) -> Ack:
        """Set the focus of this client: layers that are also recorded in steps between the observed steps.

        layers: names or patterns that match at most 16 layers; they replace the earlier focus of this
            client. Without layers, the focus ends. It also ends when this client closes.

        The Ack contains the names of the layers. `focus_steps` iterates over the results. The command
        is refused for a compiled model.
        """
        return self._commands.ask(Command(action="focus", layers=layers), timeout_s)

    def capture(
        self, layers: str, what: str = "activation", *, timeout_s: float = TIMEOUT_S
    ) -> list[CapturedArray]:
        """Return tensors of layers from the next step. Of a tensor above 16 MB, only the first part is sent.

        `what` is "activation", "gradient" or "param_grad". Raises NotMeasuredError, with the reason, if
        the step had no such tensor.
        """
        self._watched.ensure_any()
        return self._commands.capture(layers, what, timeout_s)

    def save_fault(self, *, timeout_s: float = TIMEOUT_S) -> str:
        """Save what reproduces the newest NaN, on the machine of the training. Return the path of the file there."""
        return self._commands.ask(Command(action="capture", what="fault"), timeout_s).id

    def close(self) -> None:
        """Disconnect from the hub and end the client's thread."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _chosen(self) -> str:
        """Return the run of this client; by default the only live run."""
        if self.run is None:
            self.run = only_live_run(self.runs())
        return self.run

    def _is_live(self, run: str) -> bool:
        runs = self._session.known.runs
        return not runs or any(info.is_live for info in runs if info.run == run)

    def _check_link(self, now_s: float) -> None:
        link = self.link
        if link.phase != "up" and now_s - link.since_s > _LOST_S:
            raise LinkError(f"no hub for {_LOST_S:g} s: {link_in_words(self.link)}")

    def _newest(
        self,
        find: Callable[[RunState], Value | None],
        what: str,
        timeout_s: float,
        *,
        rank: int | None = None,
    ) -> Value:
        if rank is not None or not self._watched.is_watched:
            self._watched.ensure(rank)
        known = self._session.known
        found = known.wait(lambda: find(known) if known.has_all_but_steps else None, timeout_s)
        return self._found(found, what, timeout_s)

    def _found(self, value: Value | None, what: str, timeout_s: float) -> Value:
        if value is None:
            raise LinkError(
                f"no {what} of run {self.run!r} arrived in {timeout_s:g} s; {link_in_words(self.link)}"
            )
        return value

    def _state(self, timeout_s: float) -> Interventions | None:
        states = self._newest(lambda known: known, "answer", timeout_s).interventions
        return states[min(states)] if states else None
