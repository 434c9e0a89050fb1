"""Changes: pending until acknowledged, refused with a reason, undone one by one."""

import pytest
from synthetic_run import SyntheticRun, SyntheticSource, install

from gradscope.errors import LinkError
from gradscope.protocol import Command, InterventionState
from gradscope_tui.changes import Change, Changes
from gradscope_tui.source import UNADDRESSED

CLIP = Change(install("clip", "head", arguments={"max_norm": 0.5}))
STOP = Change(install("stop", "norm", "head", is_kept=True))


class Desk:
    """Changes with a source that answers when it advances."""

    def __init__(self, **how):
        self.source = SyntheticSource(SyntheticRun(), **how)
        self.source.watch("gpt-7f3a")
        self.answers = []
        self.changes = Changes(self.answers.append)
        self.known, self.revision = (), 0

    def send(self, change):
        self.changes.send(self.source, change, self.revision)

    def advance(self, *, hears=True):
        self.source.advance()
        while self.answers:
            self.changes.note_answer(self.answers.pop(0))
        if hears:
            self.known, self.revision = tuple(self.source._entries), self.source._revision

    @property
    def states(self):
        return self.changes.merged(self.known, self.revision)


@pytest.fixture
def desk():
    return Desk()


def test_a_change_is_pending_until_it_is_acknowledged(desk):
    desk.send(CLIP)
    (state,) = desk.states
    assert (state.action, state.active_since, state.layers) == ("clip", None, ("head",))
    assert desk.changes.pending == 1
    desk.advance()
    (state,) = desk.states
    assert (state.action, state.active_since) == ("clip", 0)
    assert desk.changes.pending == 0


def test_an_answered_change_is_shown_once_before_the_run_lists_it(desk):
    desk.send(CLIP)
    desk.advance(hears=False)
    assert [s.active_since for s in desk.states] == [0]
    desk.known, desk.revision = tuple(desk.source._entries), 1
    assert len(desk.states) == 1


def test_a_refusal_has_its_reason_and_leaves_no_state():
    desk = Desk(refuse="no layer 'head'")
    desk.send(CLIP)
    desk.source.advance()
    (answer,) = desk.answers
    assert (answer.is_done, answer.reason) == (False, "no layer 'head'")
    desk.changes.note_answer(answer)
    assert desk.states == ()
    assert desk.changes.pop_undo(desk.known) == ()


def test_without_a_link_a_change_is_refused_at_once(desk):
    desk.changes.send(None, CLIP, 0)
    assert "no link" in desk.answers[0].reason


def test_a_closed_source_is_a_refusal(desk):
    def send(command):
        raise LinkError("the client is closed")

    desk.source.send = send
    desk.send(CLIP)
    assert desk.answers[0].reason == "the client is closed"


def test_undo_removes_the_newest_change_first(desk):
    desk.send(CLIP)
    desk.advance()
    desk.send(STOP)
    desk.advance()
    for expected in ("stop", "clip"):
        (back,) = desk.changes.pop_undo(desk.known)
        assert (back.command.action, back.removed[0].action) == ("remove", expected)
        desk.send(back)
        desk.advance()
    assert desk.known == ()
    assert desk.changes.pop_undo(desk.known) == ()


def test_undoing_a_removal_installs_again_what_was_there(desk):
    desk.send(CLIP)
    desk.advance()
    desk.send(Change(Command(action="remove_all", **UNADDRESSED), removed=desk.known))
    desk.advance()
    assert desk.known == ()
    (again,) = desk.changes.pop_undo(desk.known)
    assert again.command == CLIP.command


def test_an_intervention_removed_by_another_viewer_is_not_undone(desk):
    desk.send(CLIP)
    desk.advance()
    desk.known = ()
    assert desk.changes.pop_undo(desk.known) == ()


def test_quitting_asks_only_about_changes_that_end_with_this_viewer(desk):
    other = InterventionState("x", "stop", {}, ("norm",), "output", "someone", 3)
    desk.send(CLIP)
    desk.advance()
    desk.send(STOP)
    desk.advance()
    assert [s.action for s in desk.changes.ending_with_viewer((*desk.known, other))] == ["clip"]


def test_the_command_of_a_change_is_sent_as_it_is(desk):
    scale = Change(install("scale", "a", "b", arguments={"factor": 0.1}, end_steps=100))
    desk.send(scale)
    assert desk.source.commands == [scale.command]
