"""The Findings tab, the line with the verdict, and `watch --once --tab findings`."""

from pathlib import Path

import msgspec
import pytest
from test_app import SIZES, open_app
from textual.widgets import Static

from gradscope.findings import Checked, Finding, NotChecked, Verdict
from gradscope.protocol import AlertInfo
from gradscope_tui.store.journal import Entry
from gradscope_tui.view.cell import text_of
from gradscope_tui.view.findings import findings_text, list_findings, verdict_cells

pytestmark = pytest.mark.slow

_MARKS = " ,;:()"
LOSS = NotChecked("the loss", "no loss is logged", "call scope.log(loss=loss)")


def finding(code="never-zeroed", severity="error", layers=(), **fields):
    plain = {
        "message": f"{code} was found", "cause": "a cause", "fix": "a fix", "found_step": 9, "since_step": 0,
    }  # fmt: skip
    return Finding(code=code, severity=severity, layers=layers, **plain | fields)


def event_of(run, found):
    event = run.event(
        found.found_step, found.message, "error" if found.severity == "error" else "warning"
    )
    return msgspec.structs.replace(event, code=f"finding.{found.code}", finding=found)


def checked_event(run, checked):
    return msgspec.structs.replace(run.event(checked.steps, "checked"), code="checked", checked=checked)


def notifications(ui):
    return [each.message for each in ui.app._notifications]


def rows(ui):
    """Return the rows of the findings as text."""
    return [text_of(row.line).strip() for row in ui.app.main.findings._listed if row.finding]


@SIZES
async def test_the_first_line_names_the_worst_finding_and_n_shows_it_with_cause_and_fix(size):
    async with open_app(size) as ui:
        run = ui.source._watched
        ui.source.put(event_of(run, finding("eval-mode", "warning", ("tokens",))))
        await ui.until(lambda: ui.text.startswith(" ▲ warning eval-mode: tokens: eval-mode was found"))
        ui.source.put(event_of(run, finding()))
        await ui.until(
            lambda: ui.text.startswith(" ✖ error never-zeroed: never-zeroed was found (and 1 more)")
        )
        await ui.press("n")
        for words in ("why:   a cause", "next:  a fix", "page:  gradscope explain never-zeroed"):
            await ui.until_shown(words, advance=False)
        assert [row.split()[:3] for row in rows(ui)[:2]] == [
            ["✖", "error", "never-zeroed"],
            ["▲", "warning", "eval-mode"],
        ]
        assert notifications(ui) == []
        await ui.press("n")
        assert ui.app.main.findings.cursor == 1
        await ui.press("enter")
        await ui.until(lambda: ui.app.presenter.page == "detail")
        assert ui.app.main.detail.layer_name == "tokens"


@SIZES
async def test_f_shows_the_layer_of_each_finding_with_its_evidence_first_in_the_curves(size):
    async with open_app(size) as ui:
        run = ui.source._watched
        evidence = {"value": 4e-9, "limit": 1e-5, "kind": "param_grad"}
        ui.source.put(
            event_of(
                run, finding(layers=("head",), evidence=evidence, since_step=4, message="`head`: tiny")
            ),
            event_of(run, finding("eval-mode", "warning", ("tokens",))),
        )
        await ui.until(lambda: " f " in ui.line("#verdict"))
        await ui.press("f")
        await ui.until_shown("✖ never-zeroed: tiny", advance=False)
        await ui.until_shown("since step 4, found in step 9; value 4e-09, limit 1e-05", advance=False)
        curve = ui.app.main.detail.query(".curve").first()
        assert ui.app.main.detail.layer_name == "head"
        assert curve.text.startswith("▲ gradient norm ‖∇w‖")
        assert curve.text.rindex("▲") < curve.text.index("△")
        await ui.press("f")
        await ui.until_shown("▲ eval-mode: eval-mode was found", advance=False)
        assert ui.app.main.detail.layer_name == "tokens"
        await ui.press("escape", "enter")
        await ui.until(lambda: "eval-mode:" not in ui.line("#about"), advance=False)


async def test_without_a_finding_f_says_that_there_is_none():
    async with open_app() as ui:
        await ui.press("f")
        await ui.until(lambda: notifications(ui) == ["No finding names a layer."])


async def test_a_click_on_the_first_line_opens_the_worst_finding():
    async with open_app() as ui:
        ui.source.put(event_of(ui.source._watched, finding()))
        await ui.until(lambda: "never-zeroed" in ui.line("#verdict"))
        await ui.pilot.click("#verdict")
        await ui.until_shown("why:   a cause", advance=False)


@SIZES
async def test_without_findings_the_tab_says_what_was_checked_and_how_to_check_the_rest(size):
    async with open_app(size) as ui:
        ui.source.put(checked_event(ui.source._watched, Checked(1_240, 62, 20, 29, (LOSS,))))
        await ui.until(lambda: "healthy so far: nothing found in 1,240 steps" in ui.line("#verdict"))
        await ui.press("2")
        for words in (
            "Nothing found in 1,240 steps (62 observed: the first 20, now every 29th).",
            "the loss: no loss is logged; call scope.log(loss=loss)",
        ):
            await ui.until_shown(words, advance=False)


async def test_what_was_checked_is_not_an_entry_of_the_log():
    async with open_app() as ui:
        run = ui.source._watched
        ui.source.put(checked_event(run, Checked(20, 20, 20)), run.event(21, "later"))
        await ui.press("5")
        await ui.until_shown("later", advance=False)
        assert "checked" not in ui.text


async def test_a_fault_of_nineteen_layers_is_one_line_that_unfolds():
    async with open_app() as ui:
        run = ui.source._watched
        layers = [layer.name for layer in run.layers if layer.is_watched][:19]
        ui.source.put(*(event_of(run, finding("dead-units", "warning", (name,))) for name in layers))
        await ui.until(lambda: "tokens: dead-units was found +18 layers " in ui.line("#verdict"))
        await ui.press("2")
        await ui.until(lambda: len(rows(ui)) == 1 and "▸ 18" in rows(ui)[0])
        assert "tokens +18" in rows(ui)[0]
        await ui.until_shown("Also in positions, blocks.0, ", advance=False)
        await ui.press("l")
        assert [name in row for name, row in zip(layers, rows(ui), strict=True)] == [True] * 19


async def test_consequences_are_folded_under_their_cause_and_unfold():
    async with open_app() as ui:
        run = ui.source._watched
        ui.source.put(
            event_of(run, finding("learning-rate-too-high", "warning")),
            event_of(run, finding("loss-spike", "warning")),
        )
        await ui.press("2")
        await ui.until(lambda: len(rows(ui)) == 1 and "▸ 1" in rows(ui)[0])
        await ui.until_shown("also:  loss-spike: loss-spike was found", advance=False)
        await ui.press("l")
        assert ["loss-spike" in row for row in rows(ui)] == [False, True]
        await ui.press("j", "h")
        assert len(rows(ui)) == 1
        assert ui.app.main.findings.cursor == 0


async def test_e_shows_the_page_of_the_finding():
    async with open_app() as ui:
        ui.source.put(event_of(ui.source._watched, finding("dead-units", "warning", ("tokens",))))
        await ui.press("2")
        await ui.until_shown("▲ warning", advance=False)
        await ui.press("e")
        await ui.until(lambda: ui.app.screen.id == "explain", advance=False)
        await ui.until_shown("# dead-units", advance=False)
        await ui.press("escape")
        assert ui.app.screen is ui.app.main


async def test_a_part_that_failed_is_an_event_below_the_findings_and_is_announced():
    async with open_app() as ui:
        said = "the rule dead failed (KeyError: 'x') and is switched off"
        run = ui.source._watched
        ui.source.put(run.event(20, "a snapshot was taken"), run.event(20, said, "warning"))
        await ui.until(lambda: "2 Findings 1" in ui.line("#tabs"), advance=False)
        await ui.until(lambda: notifications(ui) == [said], advance=False)
        await ui.press("2")
        await ui.until_shown("Events", advance=False)
        await ui.until_shown(said, advance=False)


async def test_a_breakpoint_is_an_event():
    async with open_app() as ui:
        run = ui.source._watched
        reached = msgspec.structs.replace(run.event(20, "break-1: loss > 10"), code="breakpoint")
        ui.source.put(reached)
        await ui.press("2")
        await ui.until_shown("break-1: loss > 10", advance=False)
        assert notifications(ui) == []


async def test_the_whole_text_of_an_event_is_below_the_list_and_enter_says_that_it_has_no_layer():
    async with open_app((80, 24)) as ui:
        said = " ".join(f"word{i}" for i in range(40))
        ui.source.put(ui.source._watched.event(12, said, "warning"))
        await ui.press("2")
        await ui.until_shown("Events", advance=False)
        await ui.press("n")
        await ui.until_shown("word39", advance=False)
        below = str(ui.app.main.query_one("#finding-text", Static).content)
        assert below.split() == said.split()
        await ui.press("enter")
        await ui.until_shown("This row does not belong to one layer.", advance=False)
        assert ui.app.presenter.page == "findings"


async def test_the_cursor_stays_at_its_finding_if_a_worse_one_comes():
    async with open_app() as ui:
        run = ui.source._watched
        ui.source.put(event_of(run, finding("eval-mode", "warning", ("tokens",))))
        await ui.press("2")
        await ui.until(lambda: len(rows(ui)) == 1, advance=False)
        ui.source.put(event_of(run, finding()))
        await ui.until(lambda: len(rows(ui)) == 2, advance=False)
        assert ui.app.main.findings.row.finding.code == "eval-mode"


async def test_a_low_terminal_shows_the_verdict_only_if_something_is_wrong():
    async with open_app((80, 14)) as ui:
        run = ui.source._watched
        ui.source.put(checked_event(run, Checked(20, 20, 20)))
        await ui.until(lambda: ui.app.presenter.store.verdict.checked.steps == 20)
        assert not ui.app.main.verdict.display
        ui.source.put(event_of(run, finding()))
        await ui.until(lambda: "never-zeroed" in ui.line("#verdict") and ui.app.main.verdict.display)


@SIZES
async def test_the_tab_looks_as_in_the_golden_text(size):
    """To write the golden text again, delete it and run the test twice."""
    path = Path(__file__).parent / "golden" / f"findings-{size[0]}x{size[1]}.txt"
    async with open_app(size) as ui:
        run = ui.source._watched
        ui.source.put(
            event_of(run, finding("learning-rate-too-high", "warning", evidence={"ratio": 0.31, "limit": 0.01},
                                  message="the median update ratio is 0.31, over 0.01; divide the rate by 30")),
            event_of(run, finding("loss-spike", "warning", message="loss is 31, 12 times its baseline")),
            event_of(run, finding("dead-units", "warning", ("blocks.0.attention", "tokens"), action="pause",
                                  message="blocks.0.attention: 100% of the output is zero", since_step=4)),
            event_of(run, finding("never-zeroed", message="the gradients of earlier steps are never zeroed")),
            event_of(run, finding("frozen", "hint", ("tokens",), message="`tokens` is frozen but in an optimizer")),
            run.event(12, "the rule dead failed (KeyError: 'x') and is switched off", "warning"),
            checked_event(run, Checked(1_240, 62, 20, 29, (LOSS,))),
        )  # fmt: skip
        await ui.press("2")
        await ui.until_shown("no loss is logged", advance=False)
        await ui.press("j", "l")
        ui.app.clear_notifications()
        await ui.until_shown("└", advance=False)
        lines = ui.text.splitlines()
        shown = (
            "\n".join(line.rstrip() for line in [lines[0], *lines[2:]]) + "\n"
        )  # not the status line
        if not path.exists():
            path.write_text(shown, encoding="utf-8")
            pytest.fail(f"wrote {path}")
        assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_first_line_fits_and_is_cut_after_a_word(width):
    long = finding("dead-units", layers=("blocks.0.mlp",), message="much " * 40)
    for verdict in (
        Verdict.of("run", Checked(9, 9, 9), [long, finding()]),
        Verdict.of("run", Checked(1_240, 62, 20, 29, (LOSS,)), []),
    ):
        text = text_of(verdict_cells(verdict, width))
        assert len(text) == width
        if "…" in text:
            assert text.partition("…")[0].split()[-1].strip(_MARKS) in {
                word.strip(_MARKS) for word in verdict.headline.split()
            }


def test_the_first_line_names_the_layer_before_the_message_if_the_message_does_not():
    verdict = Verdict.of("run", Checked(9, 9, 9), [finding(layers=("head",))])
    assert text_of(verdict_cells(verdict, 80)).startswith(
        " ✖ error never-zeroed: head: never-zeroed was"
    )


def test_a_finding_whose_rule_acted_says_so():
    verdict = Verdict.of("run", Checked(9, 9, 9), [finding(action="skip_step")])
    listed, _ = list_findings(verdict, (), (), 120)
    assert "[skip_step] never-zeroed was found" in text_of(listed[0].line)
    assert "skip_step" in listed[0].text


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (120, ["severity", "finding", "layers", "since", "found", "message"]),
        (62, ["severity", "finding", "layers", "message"]),
    ],
)
def test_findings_have_as_many_columns_as_the_width_allows(width, titles):
    verdict = Verdict.of(
        "run", Checked(9, 9, 9), [finding(layers=("blocks.0",), message="many words " * 9)]
    )
    listed, header = list_findings(verdict, (), (), width)
    assert text_of(header).split() == titles
    assert len(text_of(listed[0].line)) <= width


def test_the_plain_tab_has_every_finding_in_full_the_events_and_what_was_not_checked():
    verdict = Verdict.of(
        "run", Checked(9, 9, 9, 1, (LOSS,)), [finding(), finding("eval-mode", "warning")]
    )
    alert = AlertInfo("dead", "a", "out", 1.0, 0.99, 3, "pause")
    text = findings_text(verdict, [Entry(1.0, 7, "warning", "a rule failed", "x", alert)], 80)
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "error never-zeroed: never-zeroed was found",
        "warning eval-mode: eval-mode was found",
        "the loss: no loss is logged; call scope.log(loss=loss)",
        "step 7: a rule failed",
    ):
        assert words in text
