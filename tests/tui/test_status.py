"""The status line and the other lines: what they say, and what they leave out."""

import numpy as np
import pytest

from gradscope.protocol import InterventionState
from gradscope_tui.keys import KEYS, keys_shown
from gradscope_tui.screens.help import help_text
from gradscope_tui.view.lines import bar_cells, key_cells, tab_cells
from gradscope_tui.view.status import Status, liveness, status_cells
from gradscope_tui.view.words import ACTIONS, action_named, layers_in_words, sentence, short

LIVE = Status(
    run="gpt-7f3a",
    step=1284,
    steps_per_second=12.4,
    loss_name="loss",
    losses=np.linspace(4, 2, 100, dtype=np.float32),
    cost=0.018,
    every=4,
    phase="up",
    age_s=0.2,
)


def text(cells):
    return "".join(cell.text for cell in cells)


def changed(**fields):
    return Status(**{**{f: getattr(LIVE, f) for f in LIVE.__slots__}, **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "● live"),
        ({"age_s": 3.0}, "◌ no new step for 3 s"),
        ({"age_s": 3.0, "steps_per_second": 0.5}, "● last step 3 s ago"),
        ({"age_s": 6.0, "steps_per_second": 0.5}, "◌ no new step for 6 s"),
        ({"phase": "lost", "age_s": 4.0}, "✕ link lost, reconnecting, shown: 4 s old"),
        ({"phase": "none", "age_s": 4.0}, "✕ link lost, reconnecting, shown: 4 s old"),
        ({"phase": "none", "age_s": None}, "◌ no hub"),
        ({"phase": "connecting"}, "◌ connecting"),
        (
            {"phase": "refused", "reason": "version 1 here, 2 there"},
            "✕ refused: version 1 here, 2 there",
        ),
        ({"is_ended": True, "age_s": 240.0}, "■ ended 4 min ago"),
        ({"age_s": None}, "◌ no step yet"),
    ],
)
def test_the_line_says_whether_it_is_of_now(fields, words):
    assert liveness(changed(**fields)).text == words
    assert words.split()[0] in text(status_cells(changed(**fields), 120))


@pytest.mark.parametrize("width", [10, 40, 60, 80, 120, 200])
def test_the_line_fills_its_width_and_keeps_the_state_of_the_link(width):
    line = text(status_cells(LIVE, width))
    assert len(line) == width
    assert line.rstrip().endswith("live")


def test_parts_are_left_out_from_the_least_worthy():
    assert "1,284" in text(status_cells(LIVE, 30))
    assert "observing" not in text(status_cells(LIVE, 80))
    assert "observing 1.8 % · every 4 steps" in text(status_cells(LIVE, 120))
    assert "2.000" in text(status_cells(LIVE, 80))


def test_a_loss_that_is_no_number_is_loud():
    cells = status_cells(changed(losses=np.array([2.0, np.nan], np.float32)), 120)
    assert [cell.role for cell in cells if cell.text == "NaN"] == ["bad"]


def test_a_frozen_view_says_how_much_waits():
    assert "frozen, 12 waiting" in text(status_cells(changed(waiting=12), 60))


STATE = InterventionState("a", "reverse", {"alpha": 1.0}, ("blocks.0.fc1",), "output", "me", 412)


def test_the_bar_tells_what_is_changed_where_and_since_when():
    (cell,) = bar_cells([STATE], 100)
    assert cell.role == "alarm"
    assert len(cell.text) == 100
    assert cell.text.strip() == "◆ 1 active   reverse ×−1 on blocks.0.fc1, active since step 412"  # noqa: RUF001


def test_pending_is_not_called_active():
    pending = InterventionState("", "stop", {}, ("head",), "output", "me", None)
    assert "◆ 1 pending   stop on head, pending" in bar_cells([pending], 100)[0].text


@pytest.mark.parametrize("action", ACTIONS)
def test_the_sentence_tells_what_where_and_until_when(action):
    value = 0.25 if action.argument else None
    words = sentence(action, value, ("a", "b", "c", "d", "e"), "it stays until it is removed")
    assert words.startswith(
        "From the next step on, the gradient arriving at the output of 5 layers (a, b, c and 2 more) "
    )
    assert words.endswith("it stays until it is removed.")
    assert ("0.25" in words) == bool(action.argument)


def test_an_unknown_intervention_of_a_newer_peer_is_named_all_the_same():
    assert short("whirl", {"speed": 2.0}) == "whirl speed=2"
    assert action_named("whirl") is None


def test_the_whole_model_has_a_name():
    assert layers_in_words([""]) == "the whole model"


def test_every_key_is_in_the_help():
    everything = help_text(is_readonly=False)
    for key in KEYS:
        assert key.meaning in everything
    for action in ACTIONS:
        assert f"i {action.key}" in everything


def test_readonly_hides_what_it_refuses():
    for words in (
        help_text(is_readonly=True),
        text(key_cells(keys_shown("layers", is_readonly=True), 200)[0]),
    ):
        for hidden in ("change the gradients", "intervene", "undo", "remove"):
            assert hidden not in words


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_key_line_fits_and_always_has_the_way_to_help(width):
    cells, actions = key_cells(keys_shown("layers", is_readonly=False), width)
    assert len(text(cells)) <= width
    assert "? help" in text(cells)
    assert set(actions) == set(range(len(cells)))


def test_tabs_count_what_they_hold():
    cells, actions = tab_cells("log", {"interventions": 2, "log": 5}, "46 layers", 80)
    assert text(cells).startswith(" 1 Layers   2 Interventions 2   3 Log 5 ")
    assert text(cells).endswith("46 layers ")
    assert [cells[place].role for place in sorted(actions)] == ["dim", "dim", "chosen"]
