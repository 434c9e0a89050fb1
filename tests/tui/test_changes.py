"""Changes: pending until acknowledged, refused with a reason, undone one by one."""

import pytest
from synthetic_run import SyntheticRun, SyntheticSource

from gradscope.errors import LinkError
from gradscope.protocol import InterventionState
from gradscope_tui.changes import Change, Changes

CLIP = Change("install", "clip", (("max_norm", 0.5),), ("head",))
STOP = Change("install", "stop", (), ("norm", "head"), is_kept=True)


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
            self.changes.settle(self.answers.pop(0))
        if hears:
            self.known, self.revision = tuple(self.source._entries), self.source._revision

    @property
    def states(self):
        return self.changes.merged(self.known, self.revision)


@pytest.fixture
def desk():
    return Desk()


def test_a_change_is_pending_until_the_training_process_says_since_when(desk):
    desk.send(CLIP)
    (state,) = desk.states
    assert (state.action, state.active_since, state.layers) == ("clip", None, ("head",))
    assert desk.changes.pending == 1
    desk.advance()
    (state,) = desk.states
    assert (state.action, state.active_since) == ("clip", 0)
    assert desk.changes.pending == 0


def test_between_the_answer_and_the_list_it_is_shown_once(desk):
    desk.send(CLIP)
    desk.advance(hears=False)
    assert [s.active_since for s in desk.states] == [0]
    desk.known, desk.revision = tuple(desk.source._entries), 1
    assert len(desk.states) == 1


def test_a_refusal_is_told_with_its_reason_and_leaves_nothing_behind():
    desk = Desk(refuse="no layer 'head'")
    desk.send(CLIP)
    desk.source.advance()
    (answer,) = desk.answers
    assert (answer.is_done, answer.reason) == (False, "no layer 'head'")
    desk.changes.settle(answer)
    assert desk.states == ()
    assert desk.changes.undone(desk.known) == ()


def test_without_a_link_a_change_is_refused_at_once(desk):
    desk.changes.send(None, CLIP, 0)
    assert "no link" in desk.answers[0].reason


def test_a_closed_source_is_a_refusal(desk):
    def submit(action, **rest):
        raise LinkError("the client is closed")

    desk.source.submit = submit
    desk.send(CLIP)
    assert desk.answers[0].reason == "the client is closed"


def test_undo_takes_back_the_newest_first(desk):
    desk.send(CLIP)
    desk.advance()
    desk.send(STOP)
    desk.advance()
    for expected in ("stop", "clip"):
        (back,) = desk.changes.undone(desk.known)
        assert (back.action, back.removed[0].action) == ("remove", expected)
        desk.send(back)
        desk.advance()
    assert desk.known == ()
    assert desk.changes.undone(desk.known) == ()


def test_undoing_a_removal_installs_again_what_was_there(desk):
    desk.send(CLIP)
    desk.advance()
    desk.send(Change("remove_all", removed=desk.known))
    desk.advance()
    assert desk.known == ()
    (again,) = desk.changes.undone(desk.known)
    assert (again.action, again.intervention, again.arguments, again.layers) == (
        "install",
        "clip",
        (("max_norm", 0.5),),
        ("head",),
    )


def test_what_somebody_else_removed_is_not_undone(desk):
    desk.send(CLIP)
    desk.advance()
    desk.known = ()
    assert desk.changes.undone(desk.known) == ()


def test_only_what_ends_with_this_viewer_is_asked_about_when_quitting(desk):
    other = InterventionState("x", "stop", {}, ("norm",), "output", "someone", 3)
    desk.send(CLIP)
    desk.advance()
    desk.send(STOP)
    desk.advance()
    assert [s.action for s in desk.changes.mine((*desk.known, other))] == ["clip"]


def test_what_was_asked_is_what_is_sent(desk):
    desk.send(Change("install", "scale", (("factor", 0.1),), ("a", "b"), end_steps=100))
    action, rest = desk.source.submitted[0]
    assert action == "install"
    assert (rest["intervention"], rest["arguments"], rest["layers"]) == (
        "scale",
        {"factor": 0.1},
        ("a", "b"),
    )
    assert (rest["end_steps"], rest["is_kept"]) == (100, False)
