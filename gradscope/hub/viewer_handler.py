"""The viewers' desk: subscriptions, what of a run goes to whom, and their commands."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Literal

from gradscope.hub.command_routing import COMMAND_ID_BYTES, CommandRouter
from gradscope.hub.history import Parts
from gradscope.hub.peers import Peer
from gradscope.hub.runs import RunTable, Streamed
from gradscope.hub.viewer_delivery import Past, ViewerDelivery
from gradscope.protocol import (
    Backfill,
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
    """Serves the viewers.

    `send` and `send_to_agent` send to a route, and return False when it takes nothing now.
    """

    def __init__(
        self,
        runs: RunTable,
        send: Callable[[bytes, Parts], bool],
        send_to_agent: Callable[[bytes, Parts], bool],
        counts: Counter[str],
    ) -> None:
        self._runs = runs
        self.commands = CommandRouter(runs, send_to_agent, self._answer)
        self._send = send
        self._counts = counts
        self._deliveries: dict[str, ViewerDelivery] = {}
        self._routes: dict[str, bytes] = {}

    @property
    def peers(self) -> tuple[str, ...]:
        """The peer ids of the viewers that are there."""
        return tuple(self._routes)

    @property
    def role(self) -> Literal["agent", "viewer"]:
        """Whom it serves."""
        return "viewer"

    def objection(self, hello: Hello) -> Refusal | None:  # noqa: ARG002 - a desk's duty
        """Let every viewer in."""
        return None

    def arrived(self, peer: Peer) -> None:
        """Start anew with a viewer, and tell it the runs."""
        name, route = peer.hello.peer, peer.route
        self._routes[name] = route
        self._deliveries[name] = ViewerDelivery(lambda parts: self._send(route, parts), self._counts)
        self._deliveries[name].put_state("runs", self._runs.listing(dict(self._counts)))

    def left(self, peer: Peer, reason: str, *, is_farewell: bool) -> None:  # noqa: ARG002 - a desk's duty
        """Forget a viewer and all that waits for it."""
        self._routes.pop(peer.hello.peer, None)
        self._deliveries.pop(peer.hello.peer, None)

    def handle(self, peer: Peer, message: Message, parts: Parts) -> Refusal | None:
        """Do what a viewer asks."""
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
                pass  # that it came is all it says
            case _:
                name = type(message).__name__
                return Refusal(code="message", reason=f"a viewer cannot send a {name}")
        return None

    def publish(self, message: Streamed, parts: Parts) -> None:
        """Hand a run's message to the viewers that subscribed to it."""
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

    def pass_on(self, run: str, captured: Captured, parts: Parts) -> None:
        """Hand a captured tensor to the viewer that asked for it, and to nobody else."""
        delivery = self._deliveries.get(self.commands.asker(run, captured.command) or "")
        if delivery is None:
            self._counts["unanswered"] += 1
        else:
            delivery.put_answer(parts)

    def publish_runs(self) -> None:
        """Tell all viewers which runs there are now."""
        if self._deliveries:
            listing = self._runs.listing(dict(self._counts))
            for delivery in self._deliveries.values():
                delivery.put_state("runs", listing)

    def flush(self, now_s: float) -> float:
        """Send what may go to each; return when to try again (monotonic; infinity for not needed)."""
        return min(
            (delivery.flush(now_s) for delivery in list(self._deliveries.values())), default=math.inf
        )

    def _answer(self, name: str, message: Message) -> None:
        """Send a viewer the answer to its command; when it is away, it asks again."""
        delivery = self._deliveries.get(name)
        if delivery is None:
            self._counts["unanswered"] += 1
        else:
            delivery.put_answer(encode(message))

    def _on_subscribe(self, delivery: ViewerDelivery, wish: Subscribe) -> Refusal | None:
        if not 0 < wish.max_rate_hz <= _RATE_LIMIT_HZ:
            return Refusal(
                code="message",
                reason=f"max_rate_hz must be above 0 and at most {_RATE_LIMIT_HZ:g}, "
                f"got {wish.max_rate_hz}",
            )
        delivery.subscribe(wish, self._past(wish) if wish.run else iter(()))
        for number, rank in self._runs.ranks(wish.run):
            for kind, parts in ((Manifest, rank.manifest), (Interventions, rank.interventions)):
                if parts is not None:
                    delivery.put_state((kind, number), parts)
        return None

    def _past(self, wish: Subscribe) -> Past:
        """Return a run's rings as they are now; sent as credit allows."""
        rings = [rank.ring for _, rank in self._runs.ranks(wish.run)] if wish.backfill else []
        scalars = [message for ring in rings for message in ring.scalars()]
        events = [parts for ring in rings for parts in ring.events()]
        readings = [parts for ring in rings for parts in ring.readings()]
        steps = [parts for ring in rings for parts in ring.steps()]
        return _in_order(wish.run, scalars, [*events, *readings], steps)


def _in_order(run: str, scalars: list[Scalars], others: list[Parts], steps: list[Parts]) -> Past:
    """Iterate over the past. The brackets come also when nothing is between them.

    After the last one a viewer knows that it has seen what there was.
    """
    count = len(scalars) + len(others) + len(steps)
    yield encode(Backfill(run=run, state="begin", count=count)), False
    yield from ((encode(message), False) for message in scalars)
    yield from ((parts, False) for parts in others)
    yield from ((parts, True) for parts in steps)
    yield encode(Backfill(run=run, state="end", count=count)), False
