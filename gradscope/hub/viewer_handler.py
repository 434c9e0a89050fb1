"""Handles the messages of viewers (subscriptions, credit, commands) and publishes runs to viewers."""

import math
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

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
    Refusal,
    Runs,
    Scalars,
    Step,
    Subscribe,
    Times,
    encode,
)

__all__ = ["ViewerHandler"]

_RATE_LIMIT_HZ = 1_000.0


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
        for delivery in self._deliveries.values():
            if delivery.run != message.run:
                continue
            match message:
                case Step(layers="focus"):
                    delivery.put_focus_step(parts)
                case Step():
                    delivery.put_step(message.rank, message.step, parts)
                case Manifest() | Interventions():
                    delivery.put_state((type(message), message.rank), parts)
                case Scalars() | Event() | Memory() | Times():
                    delivery.put(parts)

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

        The time is that of time.monotonic(); infinity means after the next event.
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
        delivery.subscribe(subscription, self._past(subscription) if subscription.run else iter(()))
        for number, rank in self._runs.ranks(subscription.run):
            for kind, parts in ((Manifest, rank.manifest), (Interventions, rank.interventions)):
                if parts is not None:
                    delivery.put_state((kind, number), parts)
        return None

    def _past(self, subscription: Subscribe) -> Past:
        """Return the current history of a run. Its steps are sent as credit allows."""
        histories = (
            [rank.history for _, rank in self._runs.ranks(subscription.run)]
            if subscription.backfill
            else []
        )
        scalars = [parts for each in histories for parts in each.past_scalars()]
        events = [parts for each in histories for parts in each.events]
        readings = [parts for each in histories for parts in each.readings]
        steps = [parts for each in histories for parts in each.steps]
        return _in_order(subscription, [*scalars, *events, *readings], steps)


def _in_order(subscription: Subscribe, others: list[Parts], steps: list[Parts]) -> Past:
    """Iterate over the past messages, between two `backfill` messages that are sent even if there are none.

    The second `backfill` message tells a viewer that it has received the whole past.
    """
    run, number = subscription.run, subscription.number
    count = len(others) + len(steps)
    yield encode(Backfill(run=run, state="begin", count=count, number=number)), False
    yield from ((parts, False) for parts in others)
    yield from ((parts, True) for parts in steps)
    yield encode(Backfill(run=run, state="end", count=count, number=number)), False
