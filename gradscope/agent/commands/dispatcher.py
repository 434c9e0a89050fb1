"""Commands from viewers: checked on arrival, applied at a step boundary, acknowledged when in force.

    handle ──▶ prepare (checks, changes nothing) ──▶ a boundary between two steps: apply ──▶ Ack
                  └──▶ refused

The object that carries out an action registers it: `dispatcher.register({"pause": prepare})`.
"""

import secrets
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from gradscope.agent.commands.consensus import Consensus, is_agreed
from gradscope.agent.commands.intervention_commands import intervention_commands
from gradscope.agent.commands.queue import CommandQueue, PendingCommand, Prepared
from gradscope.agent.commands.shared_interval import SharedInterval
from gradscope.agent.run.context import RunContext
from gradscope.agent.run.distributed import connect_to_job_store
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import GradscopeError, UsageError
from gradscope.intervene import LedgerEntry
from gradscope.protocol import Ack, Command, decode, encode

__all__ = ["CommandDispatcher", "Prepare"]

_REMEMBERED = 1_000
_VIEWERS, _OWN = "command", "own"
_AGAIN_S = 5.0

Prepare: TypeAlias = Callable[[Command], Prepared]
"""Checks a command and returns a function that applies it. Raises GradscopeError to refuse the command.
Called in any thread, on each rank. It changes nothing, because another rank may refuse the command, and it
does not check the state of the run; that is checked when the command is applied."""


class CommandDispatcher:
    """Handles the commands of one run. A repeated command id gets the same answer again.

    With one rank, a command waits in `queue`, which is a plugin. With several ranks, `consensus` queues
    the command on all of them.
    """

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        self._run = run
        self._ledger = run.ledger
        self.queue = CommandQueue(run, engine)
        self.consensus = self._make_consensus() if run.hello.world_size > 1 else None
        self._prepare: dict[str, Prepare] = {}
        self._revising: set[str] = set()
        self._under_way: set[bytes] = set()
        self._answers: OrderedDict[bytes, Ack | None] = OrderedDict()
        self._made: set[str] = set()
        self._ending_s: dict[str, float] = {}
        run.ledger.on_failure = self._remove_failed
        self.register(intervention_commands(run.ledger, engine.tracker), is_revising=True)

    @property
    def is_lead(self) -> bool:
        """Whether this rank sends the run's own requests to all ranks."""
        return self.consensus is None or self.consensus.rank == 0

    def register(self, prepare: Mapping[str, Prepare], *, is_revising: bool = False) -> None:
        """Accept these commands, by action. `is_revising`: the commands change the interventions."""
        self._prepare.update(prepare)
        if is_revising:
            self._revising.update(prepare)

    def plugins(self) -> list[StepPlugin]:
        """Return the plugins that apply commands and align the ranks. Add them to the engine first."""
        if self.consensus is None:
            return [self.queue]
        return [self.queue, SharedInterval(self.consensus, self._run.sampler)]

    def handle(self, command: Command) -> None:
        """Handle a command of a viewer: refuse it at once, or acknowledge it when it is in force."""
        if command.id in self._answers:
            known = self._answers[command.id]
            if known is not None:
                self._answer(known)
            return
        self._remember(command.id, None)
        try:
            self._check_revision(command)
            prepared = self.prepare(command)
        except GradscopeError as error:
            self._refuse(command, str(error))
            return
        except Exception as error:  # noqa: BLE001 - the viewer must get an answer, and the link continues
            self._run.faults.report("checking a command", error, "It was refused.")
            self._refuse(command, f"it failed: {type(error).__name__}: {error}")
            return
        if command.action in self._revising:
            self._under_way.add(command.id)
        done, refuse = partial(self._done, command), partial(self._refuse, command)
        self._submit(_VIEWERS, command, PendingCommand(prepared, done, refuse))

    def request(
        self,
        action: str,
        *,
        target: str = "",
        refused: Callable[[str], None] = lambda _reason: None,
        **fields: object,
    ) -> None:
        """Submit a request of the run itself, to be applied at the next boundary of all ranks. Never blocks.

        `fields` are fields of a Command. If the request is refused, `refused(reason)` is called,
        possibly in another thread.
        """
        id = secrets.token_bytes(16)
        run = self._run.hello.run
        command = Command(id=id, run=run, peer="", action=action, target=target, **fields)  # type: ignore[arg-type]  # fields of a Command, by name
        try:
            prepared = self.prepare(command, is_own=True)
        except GradscopeError as error:
            refused(str(error))
            return
        self._submit(_OWN, command, PendingCommand(prepared, self._note_made, refused))

    def prepare(self, command: Command, *, is_own: bool = False) -> Prepared:
        """Check a command on this rank. Raises GradscopeError if the command is refused.

        `is_own`: the command is a request of the run itself, not of a viewer.
        """
        if not self._run.settings.is_controllable and not is_own:
            raise UsageError("this run was attached with control=False: it accepts no commands")
        prepare = self._prepare.get(command.action)
        if prepare is None:
            raise UsageError(f"this run does not know how to {command.action}")
        return prepare(command)

    def _end_on_all_ranks(self, entry: LedgerEntry) -> None:
        """Request the removal of an expired intervention on all ranks; repeat while it is in force.

        The rank that set the intervention sends the request. For an intervention that the script set on
        every rank, the lead rank sends the request.
        """
        now_s = time.monotonic()
        is_mine = entry.id in self._made or (self.is_lead and not is_agreed(entry.id))
        if is_mine and now_s - self._ending_s.get(entry.id, -_AGAIN_S) >= _AGAIN_S:
            self._ending_s[entry.id] = now_s
            self.request("remove", target=entry.id)

    def _remove_failed(self, entry: LedgerEntry, _reason: str) -> None:
        self.request("remove", target=entry.id)

    def _make_consensus(self) -> Consensus:
        hello = self._run.hello
        consensus = Consensus(
            hello.rank,
            hello.world_size,
            connect=lambda: connect_to_job_store(hello.run, hello.rank),
            put=self.queue.put,
            faults=self._run.faults,
        )
        consensus.register(_VIEWERS, lambda word: self.prepare(_command_of(word)))
        consensus.register(_OWN, lambda word: self.prepare(_command_of(word), is_own=True))
        self.queue.set_consensus(consensus)
        self._ledger.on_expired = self._end_on_all_ranks
        return consensus

    def _submit(self, kind: str, command: Command, pending: PendingCommand) -> None:
        if self.consensus is None:
            self.queue.put(pending)
        else:
            self.consensus.submit(kind, _word_of(command), pending)

    def _check_revision(self, command: Command) -> None:
        expected, revision = command.expect_revision, self._ledger.revision
        if expected is not None and (expected != revision or self._under_way):
            another = ", another change is under way" if self._under_way else ""
            raise UsageError(
                f"the interventions have changed since (revision {revision}{another}, expected "
                f"{expected}); look again before you change them"
            )

    def _done(self, command: Command, step: int, id: str = "", layers: tuple[str, ...] = ()) -> None:
        self._note_made(step, id)
        self._finish(
            Ack(command=command.id, run=command.run, is_done=True, step=step, id=id, layers=layers)
        )

    def _note_made(self, step: int, id: str = "", layers: tuple[str, ...] = ()) -> None:  # noqa: ARG002 - signature of OnDone
        if id:
            self._made.add(id)

    def _refuse(self, command: Command, reason: str) -> None:
        self._finish(Ack(command=command.id, run=command.run, is_done=False, reason=reason))

    def _finish(self, ack: Ack) -> None:
        self._under_way.discard(ack.command)
        self._remember(ack.command, ack)
        self._answer(ack)

    def _answer(self, ack: Ack) -> None:
        self._run.publisher.put_and_send(lambda: ack)

    def _remember(self, id: bytes, ack: Ack | None) -> None:
        self._answers[id] = ack
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)


def _word_of(command: Command) -> str:
    return b64encode(encode(command)[0]).decode()


def _command_of(word: str) -> Command:
    command = decode([b64decode(word)])
    if not isinstance(command, Command):
        raise UsageError(f"expected a command from another rank, got a {type(command).__name__}")
    return command
