"""`Acting`: what the app does beside changing gradients: pauses, alerts, captures, focus, undo."""

from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import App
from textual.message import Message

from gradscope.errors import GradscopeError
from gradscope_tui.focusing import Focusing
from gradscope_tui.pause_lease import PauseLease
from gradscope_tui.presenter import Presenter
from gradscope_tui.receiver import Receiver
from gradscope_tui.screens.capture import CaptureScreen
from gradscope_tui.screens.main import MainScreen
from gradscope_tui.screens.pause import PauseScreen
from gradscope_tui.store import Session

if TYPE_CHECKING:
    from gradscope.client import CapturedArray

__all__ = ["Acting", "Said"]

_CAPTURING_S = 2.0
"""What is captured covers most of the screen, and no message should cover that."""


class Said(Message, bubble=False):
    """What came of a pause or its like, in words."""

    def __init__(self, text: str, is_done: bool) -> None:
        super().__init__()
        self.text = text
        self.is_done = is_done


class Captured(Message, bubble=False):
    """Tensors have come, or the reason why not."""

    def __init__(self, found: "list[CapturedArray]", reason: str) -> None:
        super().__init__()
        self.found = found
        self.reason = reason


class Acting(App[int]):
    """The actions of the keys `P . n N v` and of the palette's undo."""

    is_readonly: bool
    session: Session
    receiver: Receiver
    viewing: Presenter
    main: MainScreen

    def make_standing(self) -> None:
        """Be ready to pause, and to look closer."""
        self.focusing = Focusing()
        self.standing = PauseLease(lambda text, is_done: self.post_message(Said(text, is_done)))

    def renew_pause(self) -> None:
        """Renew the lease of a pause that this viewer holds."""
        store = self.session.watched
        self.standing.renew(self.receiver.source, store.pause if store else None)

    def follow_focus(self) -> None:
        """Have the layer in detail measured more often, and no other."""
        name, store = self.main.detail.layer_name, self.session.watched
        is_wanted = not self.is_readonly and self.viewing.page == "detail" and store is not None
        node = store.tree.find(name) if is_wanted and store is not None and name is not None else None
        is_watched = store is not None and node is not None and store.tree.layers[node].is_watched
        self.focusing.follow(self.receiver.source, name if is_watched else None)
        self.main.detail.refusal = self.focusing.refusal

    def on_said(self, event: Said) -> None:
        """Say what came of it."""
        if event.is_done:
            store = self.session.watched
            if store is not None and event.text:
                store.note("info", event.text)
        else:
            self.notify(event.text, severity="error", timeout=12, markup=False)
        self.main.look()

    async def action_pause(self) -> None:
        """Pause the training, asked once; or let a paused one go on."""
        store = self.session.watched
        if self.is_readonly or store is None:
            return
        if store.pause is not None:
            self.standing.ask(self.receiver.source, "resume")
        else:
            await self.push_screen(PauseScreen(), self._decide_pause)

    def _decide_pause(self, is_wanted: bool | None) -> None:
        if is_wanted:
            self.standing.ask(self.receiver.source, "pause")

    def action_step_once(self) -> None:
        """Let a paused training do one step."""
        store = self.session.watched
        if self.is_readonly or store is None:
            return
        if store.pause is None:
            self.notify("the training runs: P pauses it, then . does one step")
        else:
            self.standing.ask(self.receiver.source, "step_once")

    def action_measure(self) -> None:
        """Have memory and time measured in the next step."""
        if not self.is_readonly:
            self.standing.ask(self.receiver.source, "measure")

    def action_go_back_to_before(self) -> None:
        """Put back the state of before the first intervention."""
        if not self.is_readonly:
            self.standing.ask(self.receiver.source, "undo")

    def action_alert(self, distance: int) -> None:
        """Go to the next alert or the one before; from another page, to the newest."""
        store = self.session.watched
        if store is None or not len(store.alerts):
            self.notify("no alert was told in this run")
            return
        rows = self.main.alerts
        if self.viewing.page == "alerts":
            rows.action_move(distance)
        else:
            self.main.show_page("alerts")
            rows.action_move(len(store.alerts))

    def action_show_alerts_layer(self) -> None:
        """Show in detail the layer of the alert under the cursor."""
        store, row = self.session.watched, self.main.alerts.cursor
        if store is None or row >= len(store.alerts):
            return
        layer = store.alerts[row].info.layer
        if layer:
            self.main.detail.layer_name = layer
            self.main.show_page("detail")

    def action_capture(self, what: str = "activation") -> None:
        """Capture the tensors of the layer in detail, or under the cursor."""
        name = self.main.detail.layer_name
        if self.viewing.page != "detail" or name is None:
            name = self.main.table.cursor_layer
        if name is None or self.is_readonly:
            return
        text = f"capturing {what} of {name or 'the model'} in the next step"
        store = self.session.watched
        if store is not None and store.pause is not None:
            text += ": the training is paused, . does one step"
        self.notify(text, timeout=_CAPTURING_S, markup=False)
        self.run_worker(partial(self._capture, name, what), thread=True, exclusive=True)

    def _capture(self, name: str, what: str) -> None:
        source: Any = self.receiver.source  # a Client; the sources of tests may not capture
        try:
            if source is None:
                raise GradscopeError("there is no link to the training process")  # noqa: TRY301 - one way out
            self.post_message(Captured(source.capture(name, what), ""))
        except GradscopeError as error:
            self.post_message(Captured([], str(error)))

    async def on_captured(self, event: Captured) -> None:
        """Show what was captured."""
        if event.reason:
            self.notify(event.reason, severity="error", timeout=12, markup=False)
        elif self.screen is self.main:
            await self.push_screen(CaptureScreen(event.found), self._capture_again)

    def _capture_again(self, what: str | None) -> None:
        if what is not None:
            self.action_capture(what)
