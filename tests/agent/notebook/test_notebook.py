"""A scope in a notebook: its HTML, its plots, cells that are run again and cells that raise."""

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import NotMeasuredError, UnknownLayerError, UsageError
from gradscope.recording import list_recordings, open_recording
from support.models import batches, make_normalized_model, train
from support.waiting import wait_for

mpl.use("agg")


class Parser(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data + " "


@pytest.fixture
def observed():
    """A model after 6 observed steps, and its scope."""
    model = make_normalized_model()
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(6))
        yield model, scope


def test_the_html_has_the_verdict_and_each_layer_with_its_numbers(observed):
    _, scope = observed
    page = Parser(scope._repr_html_())
    assert scope.diagnose().headline in page.text
    assert page.tags.count("tr") == 1 + len(scope.latest())
    assert f"{scope.latest()['4']['grad'].norm:.3g}" in page.text
    assert "·" in page.text  # a layer without parameters has no ‖w‖
    assert not {"script", "iframe", "img", "link"} & set(page.tags)


def test_names_in_the_html_are_escaped():
    model = nn.ModuleDict({"<script>alert(1)</script>": nn.Linear(3, 2)})
    with gradscope.attach(model, name="<b>run", every=1, hub=None, quiet=True) as scope:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        (layer,) = model.values()
        layer(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        html = scope._repr_html_()
    assert "<script" not in html
    assert "<b>run" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_before_the_first_step_the_html_says_that_nothing_was_observed():
    with gradscope.attach(make_normalized_model(), hub=None, quiet=True) as scope:
        assert "No step has been observed yet." in scope._repr_html_()


def test_a_plot_has_a_line_for_each_layer_with_the_measured_values(observed):
    _, scope = observed
    axes = scope.plot(["0", "4"], "grad")
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"0", "4"}
    assert list(lines["0"].get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert lines["4"].get_ydata()[-1] == scope.latest()["4"]["grad"].norm
    assert axes.get_yscale() == "log"
    assert scope.plot(kind="out", statistic="mean", ax=axes) is axes
    mpl.pyplot.close("all")


def test_what_cannot_be_plotted_is_said(observed):
    _, scope = observed
    with pytest.raises(UsageError, match="unknown kind 'gradient'; expected one of out"):
        scope.plot("0", "gradient")
    with pytest.raises(UsageError, match="unknown statistic 'median'"):
        scope.plot("0", statistic="median")
    with pytest.raises(UnknownLayerError):
        scope.plot("9")
    with pytest.raises(NotMeasuredError, match="param of these layers was not measured"):
        scope.plot("1", "param")  # a ReLU has none


PAGE = Path(__file__).parents[3] / "docs" / "notebooks.md"
CELLS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
ATTACH, TRAIN, *SHOW = CELLS
MAGIC = """
%load_ext gradscope
shell = get_ipython()
display(shell.run_line_magic("gradscope", ""))
other = nn.Linear(2, 2)
with gradscope.attach(other, name="other", hub=None, quiet=True):
    %gradscope
%gradscope lost
"""
KEEP = "kept = globals().get('kept', []) + [net]\n"  # as the output cache or another variable does


@pytest.fixture
def notebook(ended_hubs, tmp_path):
    """Return a function that runs cells in a kernel, without stopping at an error; it returns their outputs."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")

    def run(*cells):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client = nbclient.NotebookClient(
            book, timeout=120, allow_errors=True, kernel_name="python3", shutdown_kernel="graceful"
        )
        with asyncio.Runner() as runner:
            runner.run(client.async_execute())
        return [cell.outputs for cell in book.cells]

    return run


def _text(outputs):
    return "".join(
        each.get("text", "") or str(each.get("data", "")) + each.get("evalue", "") for each in outputs
    )


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")  # Jupyter's own
def test_cells_are_run_again_and_raise_and_continue_in_a_real_kernel(notebook):
    outputs = notebook(
        ATTACH + KEEP,
        TRAIN,
        *SHOW,
        "first = scope\nscope = gradscope.attach(net, every=1)\nprint(first.is_detached, len(gradscope.scopes()))",
        ATTACH + KEEP + "print(len(kept), [each.run == scope.run for each in gradscope.scopes()])",
        TRAIN,
        "loss = net(torch.randn(16, 9))",
        "1 / 0",
        TRAIN + "print(scope.step, scope.is_detached, scope.faults)",
        MAGIC,
        "net(torch.randn(4, 4)).sum().backward()\nraise KeyError('lost')",
    )
    errors = [[each for each in cell if each.output_type == "error"] for cell in outputs]
    assert [index for index, found in enumerate(errors) if found] == [7, 8, 11]
    (shown,) = outputs[2]
    html = shown["data"]["text/html"]
    assert "healthy so far" in html
    assert "<td" in html
    assert not errors[3]
    assert "True 1" in _text(outputs[4])
    assert "2 [True]" in _text(outputs[5])
    assert "10 False {}" in _text(outputs[9])
    one, *both, unknown = (_text([each]) for each in outputs[10])
    assert "<table" in one
    assert [each.count("No step has been observed yet.") for each in both] == [0, 1]
    assert "No run is named 'lost' here; expected one of: " in unknown
    newest = wait_for(_newest_ended, "the end of the run")
    assert re.search("KeyError: .*lost", newest.reason)
    with open_recording(newest.path) as recording:
        said = [event.text for event in recording.events() if event.code.startswith("exception")]
    assert len(said) == 2  # not the division by zero, which has nothing to do with the run
    assert "16x9" in said[0]


def _newest_ended():
    ended = [each for each in list_recordings() if each.ended_s is not None]
    return max(ended, key=lambda each: each.started_s) if len(ended) == 3 else None
