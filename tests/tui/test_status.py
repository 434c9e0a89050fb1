"""The status line and the other lines: their texts, and the parts that they omit."""

import msgspec
import numpy as np
import pytest
from rich.cells import cell_len
from synthetic_run import ACTIONS as RUN_ACTIONS
from synthetic_run import install

from gradscope.catalogue import INTERVENTIONS
from gradscope.protocol import ActionInfo, InterventionState, Ramp, Schedule
from gradscope_tui.keys import KEYS, keys_shown
from gradscope_tui.store.journal import Entry
from gradscope_tui.view.cell import Cell
from gradscope_tui.view.columns import in_columns
from gradscope_tui.view.help_text import help_text
from gradscope_tui.view.intervention_text import (
    action_in_words,
    effect_sentence,
    layers_in_words,
    specs_of,
    start_in_words,
)
from gradscope_tui.view.lines import (
    INTERVENTION_COLUMNS,
    bar_cells,
    intervention_row,
    key_cells,
    log_rows,
    tab_cells,
)
from gradscope_tui.view.status import Status, liveness, status_cells

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


def test_the_pass_is_named_if_there_is_room_and_a_slow_one_is_highlighted():
    quick = status_cells(changed(measured_by="native avx2"), 160)
    assert "every 4th step, costs 1.8 %   native avx2 pass" in text(quick)
    slow = status_cells(changed(measured_by="eager: the native pass was not built (no gcc)"), 160)
    assert ("eager pass", "warning") in [(cell.text, cell.role) for cell in slow]
    assert "pass" not in text(status_cells(changed(measured_by="native avx2"), 80))


def test_irregular_observed_steps_are_counted_instead_of_named_by_an_interval():
    steady = changed(observed=(1272, 1276, 1280, 1284))
    assert "observing every 4th step, costs 1.8 %" in text(status_cells(steady, 120))
    budgeted = changed(every=385, observed=(20, 158, 838, 1223))
    assert "observed 3 of the last 1,203 steps, costs 1.8 %" in text(status_cells(budgeted, 130))
    assert "every" not in text(status_cells(budgeted, 130))


def changed(**fields):
    return Status(**{**{f: getattr(LIVE, f) for f in LIVE.__slots__}, **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "● live"),
        ({"age_s": 3.0}, "◌ no new step for 3 s"),
        ({"age_s": 3.0, "steps_per_second": 0.5}, "● last step 3 s ago"),
        ({"age_s": 6.0, "steps_per_second": 0.5}, "◌ no new step for 6 s"),
        ({"phase": "lost", "age_s": 4.0}, "✕ link lost, reconnecting, data 4 s old"),
        ({"phase": "none", "age_s": 4.0}, "✕ link lost, reconnecting, data 4 s old"),
        ({"phase": "none", "age_s": None}, "◌ no hub"),
        ({"phase": "connecting"}, "◌ connecting"),
        (
            {"phase": "refused", "reason": "version 1 here, 2 there"},
            "✕ refused: version 1 here, 2 there",
        ),
        ({"is_ended": True, "age_s": 240.0}, "■ ended 4 min ago"),
        (
            {
                "is_ended": True,
                "age_s": 9.0,
                "end_reason": "ValueError: bad\nbatch",
                "has_failed": True,
            },
            "■ ended 9 s ago: ValueError: bad�batch",
        ),
        ({"age_s": None}, "◌ no step yet"),
        ({"is_paused": True, "age_s": 9.0}, "❚❚ paused"),
        (
            {"is_paused": True, "phase": "lost", "age_s": 9.0},
            "✕ link lost, reconnecting, data 9 s old",
        ),
    ],
)
def test_the_line_shows_whether_the_data_is_live(fields, words):
    assert liveness(changed(**fields)).text == words
    assert words.split()[0] in text(status_cells(changed(**fields), 120))


@pytest.mark.parametrize("width", [10, 40, 60, 80, 120, 200])
def test_the_line_fills_its_width_and_keeps_the_state_of_the_link(width):
    line = text(status_cells(LIVE, width))
    assert len(line) == width
    assert line.rstrip().endswith("live")


def test_parts_are_left_out_in_the_order_of_their_rank():
    assert "1,284" in text(status_cells(LIVE, 30))
    assert "observing" not in text(status_cells(LIVE, 80))
    assert "observing every 4th step, costs 1.8 %" in text(status_cells(LIVE, 120))
    assert "2.000" in text(status_cells(LIVE, 80))


def test_a_nan_loss_is_highlighted():
    cells = status_cells(changed(losses=np.array([2.0, np.nan], np.float32)), 120)
    assert [cell.role for cell in cells if cell.text == "NaN"] == ["bad"]


def test_a_frozen_view_shows_how_many_steps_wait():
    assert "frozen, 12 waiting" in text(status_cells(changed(waiting=12), 60))


STATE = InterventionState("a", "reverse", {"alpha": 1.0}, ("blocks.0.fc1",), "output", "me", 412)


def test_the_bar_shows_action_layers_and_since_when():
    (cell,) = bar_cells([STATE], 100)
    assert cell.role == "alarm"
    assert len(cell.text) == 100
    assert cell.text.strip() == "◆ 1 active   reverse ×−1 on blocks.0.fc1, active since step 412"  # noqa: RUF001


def test_a_pending_intervention_is_not_shown_as_active():
    pending = InterventionState("", "stop", {}, ("head",), "output", "me", None)
    assert "◆ 1 pending   stop on head, pending" in bar_cells([pending], 100)[0].text


@pytest.mark.parametrize("name", ["reverse", "scale", "clip", "clamp", "stop", "noise"])
def test_the_sentence_has_effect_layers_and_end(name):
    spec, info = next(pair for pair in specs_of(RUN_ACTIONS) if pair[0].name == name)
    numbers = {a.name: 0.25 for a in info.arguments if a.kind == "number"}
    command = install(name, "a", "b", "c", "d", "e", arguments=numbers)
    words = effect_sentence(spec, info, command, "it stays until it is removed")
    assert words.startswith(
        "From the next step on, the gradient arriving at the output of 5 layers (a, b, c and 2 more) "
    )
    assert words.endswith("it stays until it is removed.")
    assert ("0.25" in words) == bool(numbers)


@pytest.mark.parametrize(
    ("name", "site", "words"),
    [
        (
            "stop",
            "params",
            "the gradient of the parameters of a, just before the optimizer steps, becomes",
        ),
        ("stop", "input", "the gradient leaving through the input of a becomes zero"),
        ("zero_activation", "output", "the output of a becomes zero; it ends soon."),
        (
            "amplify",
            "output",
            "is changed by amplify with gain 3, kind same before it flows on, every 2",
        ),
    ],
)
def test_the_sentence_knows_each_site_and_the_scripts_own_functions(name, site, words):
    spec, info = next(pair for pair in specs_of(RUN_ACTIONS) if pair[0].name == name)
    own = name == "amplify"
    command = install(
        name,
        "a",
        arguments={"gain": 3.0} if own else {},
        choices={"kind": "same"} if own else {},
        site=site,
        schedule=Schedule(every_steps=2) if own else None,
    )
    assert words in effect_sentence(spec, info, command, "it ends soon")


def test_the_sentence_begins_with_the_first_step_and_names_the_ramped_argument():
    spec, info = next(pair for pair in specs_of(RUN_ACTIONS) if pair[0].name == "scale")
    schedule = Schedule(1200, None, 3, Ramp("", 0.0, 1.0, 50))
    command = install("scale", "a", arguments={"factor": 0.25}, schedule=schedule)
    words = effect_sentence(spec, info, command, "it ends soon")
    assert words == (
        "From step 1,200 on, the gradient arriving at the output of a is multiplied by factor "
        "before it flows on, every 3 steps, factor 0 to 1 in 50 steps; it ends soon."
    )


@pytest.mark.parametrize("width", [59, 79, 119, 199])
def test_the_list_of_interventions_fits_the_width(width):
    schedule = Schedule(300, None, 2, Ramp("alpha", 0.0, 1.0, 100), "norm > 0.1")
    states = [STATE, msgspec.structs.replace(STATE, id="b", site="params", schedule=schedule)]
    cells = [intervention_row(state, 500) for state in states]
    rows, header = in_columns(INTERVENTION_COLUMNS, cells, width)
    for line in (header, *((Cell("▌"), *row) for row in rows)):
        assert cell_len(text(line)) <= width
    assert "reverse ×−1 at params" in text(rows[1])  # noqa: RUF001
    assert "step 412" in text(rows[0])
    assert "from step 30" in text(rows[1])
    starts = [text(header).index(title) - 1 for title in ("action", "layers", "since", "schedule, end")]
    columns = [text(rows[0])[start:] for start in starts]
    assert columns[2].startswith("step 412")
    assert ("set by" in text(header)) == (width > 119)


def test_a_long_line_of_the_log_is_wrapped_and_not_cut():
    said = " ".join(f"word{i}" for i in range(60))
    entry = Entry(0.0, 1234, "warning", said + "\nbelow it")
    lines = [text(row) for row in log_rows(entry, 78)]
    assert max(len(line) for line in lines) <= 78
    assert "1,234     ! word0" in lines[0]
    assert " ".join(lines).split()[2:] == ["!", *said.split(), "below", "it"]


def test_an_intervention_of_a_later_step_is_not_shown_as_active():
    state = msgspec.structs.replace(STATE, active_since=500)
    assert start_in_words(state, 412) == "from step 500 on"
    assert start_in_words(state, 499) == start_in_words(state) == "active since step 500"


def test_an_unknown_intervention_of_a_newer_peer_is_shown_by_name():
    assert action_in_words("whirl", {"speed": 2.0}) == "whirl speed=2"
    assert specs_of([ActionInfo("whirl", "turns")])[0][0].key == "1"


def test_the_whole_model_has_a_name():
    assert layers_in_words([""]) == "the whole model"


def test_every_key_is_in_the_help():
    everything = help_text(is_readonly=False, is_replay=True)
    assert "ten observed steps back" not in help_text(is_readonly=False)
    for key in KEYS:
        assert key.meaning in everything
    for spec in INTERVENTIONS.values():
        assert f"i {spec.key}" in everything


def test_readonly_hides_the_keys_that_it_refuses():
    for words in (
        help_text(is_readonly=True),
        text(key_cells(keys_shown("layers", is_readonly=True), 200)[0]),
    ):
        for hidden in ("intervene", "undo", "remove"):
            assert hidden not in words


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_key_line_fits_and_always_has_the_help_key(width):
    cells, actions = key_cells(keys_shown("layers", is_readonly=False), width)
    assert len(text(cells)) <= width
    assert "? help" in text(cells)
    assert set(actions) == set(range(len(cells)))


def test_tabs_have_counts():
    cells, actions = tab_cells("log", {"interventions": 2, "log": 5}, "46 layers", 80)
    assert text(cells).startswith(
        " 1 Layers  2 Findings  3 Memory  4 Interventions 2  5 Log 5  6 Depth "
    )
    assert text(cells).endswith("46 layers ")
    assert [cells[place].role for place in sorted(actions)] == ["dim"] * 4 + ["chosen", "dim"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_all_tabs_fit(width):
    cells, actions = tab_cells("layers", {"interventions": 1, "log": 9}, "", width)
    assert len(text(cells).rstrip()) <= width
    assert len(actions) == 6
