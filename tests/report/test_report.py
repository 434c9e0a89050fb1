"""`gradscope report`: its numbers, its page, and what it refuses."""
# ruff: noqa: RUF001 - the sign is meant

import asyncio
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from gradscope.cli.app import app
from gradscope.history import layer_quantities, recorded_steps
from gradscope.recording import open_recording
from gradscope.report.series import curve_of, read_layers
from support.recordings import KINDS, block_of, damage_second_chunk, make_recording

pytest.importorskip("matplotlib")

NAMES = ("stem", "blocks.0", "head")


def recorded(folder, steps=40, names=NAMES, **more):
    random = np.random.default_rng(0)
    blocks = {
        step: block_of(random.uniform(0.1, 2.0, (len(names), len(KINDS)))) for step in range(steps)
    }
    return make_recording(folder / "known.gradscope", blocks, names=names, **more)


def report(source, target, *more):
    return CliRunner().invoke(app, ["report", str(source), "-o", str(target), *more])


def files_in(folder):
    """Return the files and their contents, without the ones that SQLite makes when it reads a recording."""
    return {
        path: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal"))
    }


class Elements(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.text = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def test_quantities_are_those_of_the_elements_and_nan_if_not_measured():
    rms = np.array([[2.0, 3.0, 4.0, np.nan, 1.0], [np.nan] * 5])
    found = layer_quantities(block_of(rms, np.array([1, 0])), ("a", "b"), {"b": 0, "a": 1})
    assert found["out_rms"][1] == 2.0
    assert found["grad_norm"][1] == pytest.approx(np.sqrt(4 * 9.0))
    assert found["param_norm"][1] == pytest.approx(np.sqrt(4 * 16.0))
    assert np.isnan(found["param_grad_norm"][1])
    assert found["update_ratio"][1] == pytest.approx(1 / 4)
    assert found["nonfinite"][1] == 1
    assert all(np.isnan(values[0]) for values in found.values())


def test_a_column_of_a_long_run_is_the_median_of_its_steps(tmp_path):
    values = np.random.default_rng(1).uniform(0.1, 9.0, 960)
    blocks = {step: block_of(np.full((1, len(KINDS)), value)) for step, value in enumerate(values)}
    path = make_recording(tmp_path / "long.gradscope", blocks, names=("only",))
    with open_recording(path) as recording:
        series = read_layers(recording, steps=960)
    assert series.values["out_rms"].shape == (240, 1)
    assert series.values["out_rms"][:, 0] == pytest.approx(np.median(values.reshape(240, 4), axis=1))
    assert (series.first[1], series.last[1]) == (4, 7)
    assert series.newest["out_rms"][0] == pytest.approx(values[-1])


def test_ranks_are_merged_and_a_range_of_steps_can_be_read(tmp_path):
    path = recorded(tmp_path, 10, ranks=2)
    with open_recording(path) as recording:
        found = list(recorded_steps(recording, 3, 5))
    assert [each.step for each in found] == [3, 4, 5]
    assert [each.ranks for each in found] == [(0, 1)] * 3
    assert set(found[0].block.column("count")) == {8.0}


def test_a_curve_tells_the_steps_that_are_not_finite_apart():
    curve = curve_of([0, 1, 2, 3], [1.0, float("nan"), 3.0, float("inf")])
    assert curve.nonfinite == (1, 3)
    assert curve.steps.tolist() == [0, 2]
    assert curve.middle.tolist() == [1.0, 3.0]
    assert curve.last == float("inf")


def test_the_page_has_verdict_findings_interventions_and_layers(tmp_path):
    source = recorded(
        tmp_path,
        findings=[
            ("nonfinite", 12, "a NaN arises in `head`", ("head",)),
            ("loss-spike", 9, "loss is 4", ()),
        ],
        interventions=[(3, ["scale-1"]), (7, [])],
        reason="RuntimeError: loss is not finite",
    )
    ran = report(source, tmp_path / "out.html")
    assert ran.exit_code == 0, ran.output
    text = re.sub(r"\s+", " ", "".join(Elements((tmp_path / "out.html").read_text("utf-8")).text))
    assert "ended: RuntimeError: loss is not finite" in text
    assert text.index("a NaN arises in head") < text.index("loss is 4") < text.index("Progress")
    assert "scale ×0.5headoutput37ann" in text
    assert "blocks.0Linear" in text
    assert "40 observed steps" in text


def test_names_and_messages_are_text_and_nothing_else(tmp_path):
    hostile = "<script>alert(1)</script>\"'&\x1b[31m\u202e$x^2$"
    source = recorded(
        tmp_path,
        names=(hostile, "head"),
        run=hostile,
        findings=[("nonfinite", 2, hostile, (hostile,))],
        interventions=[(3, [hostile])],
        reason=hostile,
    )
    assert report(source, tmp_path / "out.html").exit_code == 0
    page = (tmp_path / "out.html").read_text("utf-8")
    elements = Elements(page)
    assert not elements.names & {"script", "iframe", "object", "form", "img"}
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    links = [value for name, value in elements.attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "alert(1)</script>" not in page
    assert "<script>alert(1)" in "".join(elements.text)
    assert "\x1b" not in page
    assert "\u202e" not in page
    policy = next(value for name, value in elements.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none';")


def test_a_page_of_many_layers_is_under_two_megabytes(tmp_path):
    random = np.random.default_rng(0)
    names = tuple(f"model.encoder.layers.{i}.self_attention.projection" for i in range(1200))
    blocks = {step: block_of(random.uniform(1e-6, 9.0, (1200, len(KINDS)))) for step in range(300)}
    path = make_recording(tmp_path / "wide.gradscope", blocks, names=names)
    assert report(path, tmp_path / "out.html").exit_code == 0
    assert (tmp_path / "out.html").stat().st_size < 2_000_000


def test_what_a_damaged_recording_lacks_is_on_the_page(tmp_path):
    source = recorded(tmp_path, 200)
    damage_second_chunk(source)
    assert report(source, tmp_path / "out.html").exit_code == 0
    page = (tmp_path / "out.html").read_text("utf-8")
    assert "The recording is damaged" in page
    assert "136 observed steps of 200 that are recorded" in page


def test_a_run_without_observed_steps_has_a_page(tmp_path):
    source = make_recording(tmp_path / "none.gradscope", {}, names=NAMES)
    assert report(source, tmp_path / "out.html").exit_code == 0
    assert "No step was observed" in (tmp_path / "out.html").read_text("utf-8")


def test_wrong_use_says_what_and_writes_nothing(tmp_path, places):
    source, target = recorded(tmp_path, 3), tmp_path / "out.html"
    damaged, other = tmp_path / "cut.gradscope", tmp_path / "text.gradscope"
    damaged.write_bytes(source.read_bytes()[:5000])
    other.write_text("not a recording")
    cases = [
        (("nope", target), 3, "nope"),
        ((tmp_path / "nope.gradscope", target), 3, "there is no recording"),
        ((damaged, target), 3, "cut.gradscope"),
        ((other, target), 3, "text.gradscope"),
        ((source, tmp_path / "missing" / "out.html"), 2, "create it first"),
        ((source, tmp_path), 2, "exists"),
        ((source, target, "--layers", "nope"), 2, "no layer matches 'nope'"),
    ]
    before = files_in(tmp_path)
    for arguments, code, words in cases:
        ran = report(*arguments)
        assert (ran.exit_code, words in ran.output) == (code, True), ran.output
        assert files_in(tmp_path) == before


def test_a_file_is_replaced_only_with_force(tmp_path):
    source, target = recorded(tmp_path, 3), tmp_path / "out.html"
    target.write_text("mine")
    refused = report(source, target)
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert target.read_text() == "mine"
    assert report(source, target, "--force").exit_code == 0
    assert target.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.processes
def test_chromium_opens_it_without_a_complaint_and_without_a_request(tmp_path):
    browser = pytest.importorskip("support.browser")
    if browser.find_chromium() is None:
        pytest.skip("Chromium is not installed")
    source = recorded(tmp_path, findings=[("nonfinite", 2, "a NaN", ("head",))])
    assert report(source, tmp_path / "out.html").exit_code == 0

    async def look():
        async with browser.Page() as page:
            await page.open((tmp_path / "out.html").as_uri())
            async with asyncio.timeout(60):
                while not await page.evaluate(
                    "document.readyState === 'complete' && !!document.querySelector('footer')"
                ):
                    await asyncio.sleep(0.02)
            is_wide = await page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
            return page.complaints, page.requests, is_wide

    complaints, requests, is_wide = asyncio.run(look())
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert not is_wide
