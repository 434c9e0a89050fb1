"""Commands from viewers: checked here, put into the ledger, answered when they are in force."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from gradscope.errors import GradscopeError, UsageError
from gradscope.hooks import match_names
from gradscope.intervene import End, Entry, Ledger, check_action, check_arguments, check_site
from gradscope.protocol import Ack, Command

__all__ = ["Control", "install_checked"]

_REMEMBERED = 1_000


def install_checked(
    ledger: Ledger,
    names: Sequence[str],
    intervention: str,
    arguments: Mapping[str, object],
    layers: object,
    *,
    site: str,
    set_by: str,
    end: End,
    done: Callable[[Entry, int], None],
) -> Entry:
    """Check everything at the door and ask the ledger for the intervention.

    Raises UsageError for an unknown action, layer or site, or a bad argument; nothing is changed then.
    """
    action = check_action(intervention)
    checked = check_arguments(action, arguments)
    chosen = match_names(layers, names)
    check_site(site)
    return ledger.install(action, checked, chosen, site=site, set_by=set_by, end=end, done=done)


class Control:
    """Answers the commands of one run. A repeated command id gets the first answer again.

    `answer` sends an Ack and may be called from any thread.
    """

    def __init__(
        self,
        ledger: Ledger,
        names: Callable[[], Sequence[str]],
        answer: Callable[[Ack], None],
        *,
        is_allowed: bool,
    ) -> None:
        self._ledger = ledger
        self._names = names
        self._answer = answer
        self._is_allowed = is_allowed
        self._answers: OrderedDict[bytes, Ack | None] = OrderedDict()

    def handle(self, command: Command) -> None:
        """Take a command: refuse it now, or acknowledge it once it is in force."""
        if command.id in self._answers:
            known = self._answers[command.id]
            if known is not None:
                self._answer(known)
            return
        self._remember(command.id, None)
        try:
            self._check(command)
            self._request(command)
        except GradscopeError as error:
            self._finish(Ack(command=command.id, run=command.run, is_done=False, reason=str(error)))

    def _check(self, command: Command) -> None:
        if not self._is_allowed:
            raise UsageError("this run was attached with control=False: nothing can be changed in it")
        revision = self._ledger.revision
        if command.expect_revision is not None and command.expect_revision != revision:
            raise UsageError(
                f"the interventions have changed since (revision {revision}, expected "
                f"{command.expect_revision}); look again before you change them"
            )

    def _request(self, command: Command) -> None:
        if command.action == "install":
            install_checked(
                self._ledger,
                self._names(),
                command.intervention,
                command.arguments,
                command.layers,
                site=command.site,
                set_by=command.set_by or command.peer,
                end=_end_of(command),
                done=lambda entry, step: self._done(command, step, entry.id, entry.layers),
            )
        elif command.action == "remove":
            if not self._ledger.remove(command.target, lambda step: self._done(command, step)):
                ids = ", ".join(entry.id for entry in self._ledger.entries()) or "none"
                raise UsageError(f"no intervention {command.target!r} is in force; there are: {ids}")
        else:
            self._ledger.remove_all(lambda step: self._done(command, step))

    def _done(self, command: Command, step: int, id: str = "", layers: tuple[str, ...] = ()) -> None:
        self._finish(
            Ack(command=command.id, run=command.run, is_done=True, step=step, id=id, layers=layers)
        )

    def _finish(self, ack: Ack) -> None:
        self._remember(ack.command, ack)
        self._answer(ack)

    def _remember(self, id: bytes, ack: Ack | None) -> None:
        self._answers[id] = ack
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)


def _end_of(command: Command) -> End:
    for name, value in (("end_steps", command.end_steps), ("end_s", command.end_s)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be greater than 0, got {value!r}")
    if command.is_kept:
        return End()
    if command.end_steps is None and command.end_s is None:
        return End(viewer=command.peer)
    return End(steps=command.end_steps, seconds=command.end_s)
