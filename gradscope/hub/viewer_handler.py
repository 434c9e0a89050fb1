"""Handles the messages of viewers (subscriptions, credit, commands) and publishes runs to viewers."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

from gradscope.hub.command_routing import COMMAND_ID_BYTES, CommandRouter
from gradscope.hub.history import Parts
from gradscope.hub.peers import Peer
from gradscope.hub.runs import RunTable, Streamed
from gradscope.hub.viewer_delivery import Past, ViewerDelivery
from gradscope.protocol import (
    Backfill,
    Bye,
    Captured,
    Command,
    Credit,
    Event,
    Heartbeat,
    Hello,
    Interventions,
    Manifest,
    Memory,
    Message,
    RankStates,
    Refusal,
    Runs,
    Scalars,
    Step,
    Subscribe,
    Times,
    decode,
    encode,
)

if TYPE_CHECKING:
    from gradscope.hub.ranks.merged_run import MergedRun

__all__ = ["ViewerHandler"]

_RATE_LIMIT_HZ = 1_000.0
_STARTED_WITH = 4


class ViewerHandler:
    """Handles viewers.

    `send` and `send_to_agent` send to a route, and return False if its queue is full.
    """

    role: ClassVar = "viewer"

    def __init__(
        self,
        runs: RunTable,
        send: Callable[[bytes, Parts], bool],
        send_to_agent: Callable[[bytes, Parts], bool],
        counts: Counter[str],
    ) -> None:
        self._runs = runs
        self.commands = CommandRouter(runs, send_to_agent, self._answer, self.heartbeat)
        self._send = send
        self._counts = counts
        self._deliveries: dict[str, ViewerDelivery] = {}
        self._routes: dict[str, bytes] = {}
        self._controllers: set[str] = set()
        self._merged: dict[str, MergedRun] = {}
        self._rank_states: dict[str, Parts] = {}

    def heartbeat(self) -> Heartbeat:
        """Return a heartbeat for agents, with the peer ids of the viewers."""
        return Heartbeat(
            peers=tuple(self._routes),
            controllers=tuple(self._controllers),
            counters=dict(self._counts),
        )

    def refusal_of(self, hello: Hello) -> Refusal | None:  # noqa: ARG002 - as AgentHandler has it
        """Accept every viewer."""
        return None

    def on_joined(self, peer: Peer) -> None:
        """Create an empty subscription, and send the list of runs."""
        name, route = peer.hello.peer, peer.route
        if name in self._deliveries:  # the viewer has connected again
            self._deliveries[name].close()
        self._routes[name] = route
        if peer.hello.want == "control":
            self._controllers.add(name)
        else:
            self._controllers.discard(name)
        self._deliveries[name] = ViewerDelivery(lambda parts: self._send(route, parts), self._counts)
        self._deliveries[name].put_state("runs", self._runs.listing(dict(self._counts)))

    def on_left(self, peer: Peer, bye: Bye, *, has_said_bye: bool) -> None:  # noqa: ARG002 - as AgentHandler has it
        """Remove a viewer and its queues."""
        self._routes.pop(peer.hello.peer, None)
        self._controllers.discard(peer.hello.peer)
        delivery = self._deliveries.pop(peer.hello.peer, None)
        if delivery is not None:
            delivery.close()
            self._forget_unwatched()

    def handle(self, peer: Peer, message: Message, parts: Parts) -> Refusal | None:
        """Handle one message of a viewer."""
        delivery = self._deliveries[peer.hello.peer]
        match message:
            case Subscribe():
                return self._on_subscribe(delivery, message)
            case Credit(count=count):
                if count <= 0:
                    return Refusal(code="message", reason=f"expected a credit above 0, got {count}")
                delivery.add_credit(count)
            case Runs():
                for run, states in self._rank_states.items():
                    delivery.put_state((RankStates, run), states)
                delivery.put_state("runs", self._runs.listing(dict(self._counts)))
            case Command(id=command_id):
                if len(command_id) != COMMAND_ID_BYTES:
                    return Refusal(
                        code="message",
                        reason=f"a command's id has {COMMAND_ID_BYTES} bytes, got {len(command_id)}",
                    )
                self.commands.submit(peer, message, parts)
            case Heartbeat():
                pass  # receiving it is enough: it has no content
            case _:
                name = type(message).__name__
                return Refusal(code="message", reason=f"a viewer cannot send a {name}")
        return None

    def publish(self, message: Streamed, parts: Parts) -> None:
        """Queue a message of a run for the viewers that have subscribed to the run."""
        merged = self._merged.get(message.run)
        if merged is not None:
            self._publish_merged(merged, message, parts)
        for delivery in self._deliveries.values():
            if delivery.run != message.run or (delivery.is_merged and _is_for_merging(message)):
                continue
            if not isinstance(message, Event) and not delivery.takes(message.rank):
                continue
            match message:
                case Step(layers="focus"):
                    delivery.put_focus_step(parts)
                case Step():
                    delivery.put_step(message.rank, message.step, parts)
                case Manifest() | Interventions():
                    delivery.put_state((type(message), message.rank), parts)
                case Memory() | Times() if merged is not None and delivery.is_merged:
                    delivery.put(merged.readdressed(message, parts))
                case Scalars() | Event() | Memory() | Times():
                    delivery.put(parts)

    def _publish_merged(self, merged: "MergedRun", message: Streamed, parts: Parts) -> None:
        """Add a step or manifest of one rank to what the viewers of merged ranks receive."""
        if isinstance(message, Step) and message.layers == "all":
            merged.put(message.rank, message.step, parts, time.monotonic())
        elif isinstance(message, Manifest):
            before = merged.manifest()
            merged.add_manifest(message.rank, message.revision, parts)
            self._send_merged_manifest(message.run, merged, before)

    def _send_merged_manifest(self, run: str, merged: "MergedRun", before: Parts | None) -> None:
        manifest = merged.manifest()
        if manifest is None or manifest == before:
            return
        for delivery in self._deliveries.values():
            if delivery.run == run and delivery.is_merged:
                delivery.put_state(Manifest, manifest)

    def publish_ranks(self, states: RankStates) -> None:
        """Send how the ranks of a run are doing to the viewers that have subscribed to the run, and keep it."""
        parts = self._rank_states[states.run] = encode(states)
        for delivery in self._deliveries.values():
            if delivery.run == states.run:
                delivery.put_state(RankStates, parts)

    def rank_left(self, run: str, rank: int) -> None:
        """Do not wait for the steps of a rank that has ended, and forget a run without ranks."""
        if not self._runs.is_live(run):
            self._rank_states.pop(run, None)
        if run in self._merged:
            self._merged[run].drop_rank(rank)

    def forward_capture(self, run: str, captured: Captured, parts: Parts) -> None:
        """Queue a captured tensor for the viewer that requested it."""
        delivery = self._deliveries.get(self.commands.asker(run, captured.command) or "")
        if delivery is None:
            self._counts["unanswered"] += 1
        else:
            delivery.put_answer(parts)

    def publish_runs(self) -> None:
        """Queue the list of runs for all viewers."""
        if self._deliveries:
            listing = self._runs.listing(dict(self._counts))
            for delivery in self._deliveries.values():
                delivery.put_state("runs", listing)

    def flush(self, now_s: float) -> float:
        """Send queued messages to each viewer. Return when to call again.

        The result is a time of time.monotonic(); infinity means after the next event.
        """
        return min(
            (delivery.flush(now_s) for delivery in list(self._deliveries.values())), default=math.inf
        )

    def _answer(self, name: str, message: Message) -> None:
        """Queue the answer to a command. A disconnected viewer will send the command again."""
        delivery = self._deliveries.get(name)
        if delivery is None:
            self._counts["unanswered"] += 1
        else:
            delivery.put_answer(encode(message))

    def _on_subscribe(self, delivery: ViewerDelivery, subscription: Subscribe) -> Refusal | None:
        if not 0 < subscription.max_rate_hz <= _RATE_LIMIT_HZ:
            return Refusal(
                code="message",
                reason=f"expected max_rate_hz above 0 and at most {_RATE_LIMIT_HZ:g}, "
                f"got {subscription.max_rate_hz}",
            )
        merged = self._merged_run(subscription.run) if subscription.is_merged else None
        past = self._past(subscription, merged) if subscription.run else iter(())
        delivery.subscribe(subscription, past, merged)
        self._forget_unwatched()
        manifest = merged.manifest() if merged is not None else None
        if manifest is not None:
            delivery.put_state(Manifest, manifest)
        for number, rank in self._runs.ranks(subscription.run):
            if not delivery.takes(number):
                continue
            if merged is None and rank.manifest is not None:
                delivery.put_state((Manifest, number), rank.manifest)
            if rank.interventions is not None:
                delivery.put_state((Interventions, number), rank.interventions)
        return None

    def _merged_run(self, run: str) -> "MergedRun":
        """Return what merges the ranks of a run. It exists while a viewer asks for it."""
        if run not in self._merged:
            from gradscope.hub.ranks.merged_run import MergedRun  # noqa: PLC0415 - loads NumPy

            merged = self._merged[run] = MergedRun()
            for number, rank in self._runs.ranks(run):
                manifest = None if rank.manifest is None else decode(rank.manifest[:1])
                if rank.manifest is not None and isinstance(manifest, Manifest):
                    merged.add_manifest(number, manifest.revision, rank.manifest)
            live = ((number, rank) for number, rank in self._runs.ranks(run) if rank.route is not None)
            merged.start({number: list(rank.history.steps)[-_STARTED_WITH:] for number, rank in live})
        return self._merged[run]

    def _forget_unwatched(self) -> None:
        watched = {each.run for each in self._deliveries.values() if each.is_merged}
        for run in self._merged.keys() - watched:
            del self._merged[run]

    def _past(self, subscription: Subscribe, merged: "MergedRun | None") -> Past:
        """Return the current history of a run. Its steps are sent as credit allows, and merged only then."""
        ranks = self._runs.ranks(subscription.run) if subscription.backfill else iter(())
        histories = {number: rank.history for number, rank in ranks}
        lead = subscription.rank if merged is None else merged.lead
        own = {number: each for number, each in histories.items() if lead is None or number == lead}
        scalars = [parts for each in own.values() for parts in each.past_scalars()]
        events = [parts for each in histories.values() for parts in each.events]
        readings = [parts for each in own.values() for parts in each.readings]
        if merged is None:
            steps = [parts for each in own.values() for parts in each.steps]
            return _in_order(subscription, [*scalars, *events, *readings], len(steps), iter(steps))
        readings = [merged.readdressed(decode(parts[:1]), parts) for parts in readings]
        past = {number: list(each.steps) for number, each in histories.items()}
        live = [n for n, rank in self._runs.ranks(subscription.run) if rank.route is not None]
        return _in_order(subscription, [*scalars, *events, *readings], *merged.past(past, live))


def _is_for_merging(message: Streamed) -> bool:
    """Return whether viewers of merged ranks receive this message of a rank only merged with those of others."""
    return isinstance(message, Manifest) or (isinstance(message, Step) and message.layers == "all")


def _in_order(
    subscription: Subscribe, others: list[Parts], step_count: int, steps: Iterator[Parts]
) -> Past:
    """Iterate over the past messages, between two `backfill` messages that are sent even if there are none.

    The second `backfill` message tells a viewer that it has received the whole past.
    """
    run, number = subscription.run, subscription.number
    count = len(others) + step_count
    yield encode(Backfill(run=run, state="begin", count=count, number=number)), False
    yield from ((parts, False) for parts in others)
    yield from ((parts, True) for parts in steps)
    yield encode(Backfill(run=run, state="end", count=count, number=number)), False
