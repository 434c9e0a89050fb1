"""Changes: pending until acknowledged, refused with a reason, undone one by one."""

import pytest
from synthetic_run import SyntheticRun, SyntheticSource, install

from gradscope.errors import LinkError
from gradscope.protocol import Command, InterventionState
from gradscope_tui.changes import Change, Changes, removal

CLIP = Change(install("clip", "head", arguments={"max_norm": 0.5}))
STOP = Change(install("stop", "norm", "head", is_kept=True))


class Viewer:
    """`Changes`, and a source that answers when it advances."""

    def __init__(self, **how):
        self.source = SyntheticSource(SyntheticRun(), **how)
        self.source.watch("gpt-7f3a")
        self.answers = []
        self.changes = Changes(self.answers.append)
        self.known, self.revision = (), 0

    def send(self, change):
        self.changes.send(self.source, change, self.revision)

    def advance(self, *, is_notified=True):
        self.source.advance()
        while self.answers:
            self.changes.note_answer(self.answers.pop(0))
        if is_notified:
            self.known, self.revision = tuple(self.source._entries), self.source._revision

    @property
    def states(self):
        return self.changes.with_own(self.known, self.revision)


@pytest.fixture
def viewer():
    return Viewer()


def test_a_change_is_pending_until_it_is_acknowledged(viewer):
    viewer.send(CLIP)
    (state,) = viewer.states
    assert (state.action, state.active_since, state.layers) == ("clip", None, ("head",))
    assert viewer.changes.pending == 1
    viewer.advance()
    (state,) = viewer.states
    assert (state.action, state.active_since) == ("clip", 0)
    assert viewer.changes.pending == 0


def test_an_answered_change_is_shown_once_before_the_run_lists_it(viewer):
    viewer.send(CLIP)
    viewer.advance(is_notified=False)
    assert [s.active_since for s in viewer.states] == [0]
    viewer.known, viewer.revision = tuple(viewer.source._entries), 1
    assert len(viewer.states) == 1


def test_a_refusal_has_its_reason_and_leaves_no_state():
    viewer = Viewer(refuse="no layer 'head'")
    viewer.send(CLIP)
    viewer.source.advance()
    (answer,) = viewer.answers
    assert (answer.ack, answer.reason) == (None, "no layer 'head'")
    viewer.changes.note_answer(answer)
    assert viewer.states == ()
    assert viewer.changes.pop_undo(viewer.known) == ()


def test_without_a_link_a_change_is_refused_at_once(viewer):
    viewer.changes.send(None, CLIP, 0)
    assert "no link" in viewer.answers[0].reason


def test_a_closed_source_is_a_refusal(viewer):
    def send(command):
        raise LinkError("the client is closed")

    viewer.source.send = send
    viewer.send(CLIP)
    assert viewer.answers[0].reason == "the client is closed"


def test_undo_removes_the_newest_change_first(viewer):
    viewer.send(CLIP)
    viewer.advance()
    viewer.send(STOP)
    viewer.advance()
    for expected in ("stop", "clip"):
        (back,) = viewer.changes.pop_undo(viewer.known)
        assert (back.command.action, back.removed[0].action) == ("remove", expected)
        viewer.send(back)
        viewer.advance()
    assert viewer.known == ()
    assert viewer.changes.pop_undo(viewer.known) == ()


def test_undoing_a_removal_installs_again_what_was_there(viewer):
    viewer.send(CLIP)
    viewer.advance()
    viewer.send(Change(Command(action="remove_all"), removed=viewer.known))
    viewer.advance()
    assert viewer.known == ()
    (again,) = viewer.changes.pop_undo(viewer.known)
    assert again.command == CLIP.command


def test_an_intervention_removed_by_another_viewer_is_not_undone(viewer):
    viewer.send(CLIP)
    viewer.advance()
    viewer.known = ()
    assert viewer.changes.pop_undo(viewer.known) == ()


def test_quitting_asks_only_about_changes_that_end_with_this_viewer(viewer):
    other = InterventionState("x", "stop", {}, ("norm",), "output", "someone", 3)
    viewer.send(CLIP)
    viewer.advance()
    viewer.send(STOP)
    viewer.advance()
    assert [s.action for s in viewer.changes.ending_with_viewer((*viewer.known, other))] == ["clip"]


def test_the_command_of_a_change_is_sent_as_it_is(viewer):
    scale = Change(install("scale", "a", "b", arguments={"factor": 0.1}, end_steps=100))
    viewer.send(scale)
    assert viewer.source.commands == [scale.command]


def step_of(viewer, changes):
    for change in changes:
        viewer.send(change)
    viewer.advance()
    return [(state.action, state.arguments) for state in viewer.known]


def test_redo_repeats_what_was_undone_and_undo_undoes_that_again(viewer):
    viewer.send(CLIP)
    viewer.advance()
    for _ in range(2):
        assert step_of(viewer, viewer.changes.pop_undo(viewer.known)) == []
        assert step_of(viewer, viewer.changes.pop_redo(viewer.known)) == [("clip", {"max_norm": 0.5})]
    assert viewer.changes.pop_redo(viewer.known) == ()


def test_redo_of_a_removal_removes_what_undo_installed(viewer):
    viewer.send(CLIP)
    viewer.advance()
    viewer.send(Change(Command(action="remove_all"), removed=viewer.known))
    viewer.advance()
    assert len(step_of(viewer, viewer.changes.pop_undo(viewer.known))) == 1
    assert step_of(viewer, viewer.changes.pop_redo(viewer.known)) == []


def test_a_new_change_ends_what_can_be_redone(viewer):
    viewer.send(CLIP)
    viewer.advance()
    step_of(viewer, viewer.changes.pop_undo(viewer.known))
    viewer.send(STOP)
    viewer.advance()
    assert viewer.changes.pop_redo(viewer.known) == ()


def test_undo_of_an_edit_restores_the_values_before_it_and_redo_the_new_ones(viewer):
    viewer.send(CLIP)
    viewer.advance()
    (state,) = viewer.known
    new = install("clip", "head", arguments={"max_norm": 2.0})
    changes = (removal(state, "undo"), Change(new, (state,)))
    assert step_of(viewer, changes) == [("clip", {"max_norm": 2.0})]
    assert changes[1].in_words == "clip ≤2 on head instead of clip ≤0.5"
    assert step_of(viewer, viewer.changes.pop_undo(viewer.known)) == [("clip", {"max_norm": 0.5})]
    assert step_of(viewer, viewer.changes.pop_redo(viewer.known)) == [("clip", {"max_norm": 2.0})]
    assert step_of(viewer, viewer.changes.pop_undo(viewer.known)) == [("clip", {"max_norm": 0.5})]
