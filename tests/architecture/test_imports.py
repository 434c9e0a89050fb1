"""When an import happens, which no reading of the code can tell: seen in fresh interpreters."""

import importlib
import tomllib

import pytest

import gradscope

VIEWER_ROOMS = (
    *("catalogue", "client", "columns", "errors", "hub", "names", "paths"),
    *("protocol", "recording", "rules", "transport"),
)
TORCH_ROOMS = ("doctor", "functional", "hooks", "intervene", "nn", "observe", "resources")
NEEDS_A_PACKAGE = {
    *(
        f"gradscope.integrations.{each}"
        for each in ("accelerate", "debug_server", "lightning", "transformers")
    ),
    *(f"gradscope_tui.browser.{each}" for each in ("app_process", "server")),
    *(
        f"gradscope.trackers.to_{each}"
        for each in ("mlflow", "opentelemetry", "tensorboard", "trackio", "wandb")
    ),
    "gradscope.cli.commands.mcp_server",
}
"""Modules that load a package that may be missing, starts threads or prints."""
HEAVY = {"torch", "zmq", "textual", "rich", "typer", "numpy", "msgspec", "pandas"}

_LOADED = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def test_importing_gradscope_loads_nothing_but_itself_and_the_standard_library(fresh):
    script = """
import sys
before = set(sys.modules)
import gradscope
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(roots - sys.stdlib_module_names))
"""
    assert fresh(script) == "['gradscope']"


def test_importing_gradscope_loads_none_of_its_rooms(fresh):
    script = "import sys, gradscope; print([m for m in sys.modules if m.startswith('gradscope.')])"
    assert fresh(script) == "['gradscope._version']"


def test_the_errors_load_nothing(fresh):
    loaded = fresh(f"import sys, gradscope; gradscope.errors.UsageError; {_LOADED}").split()
    assert not HEAVY & set(loaded)


def test_importing_any_module_of_the_viewers_side_works_without_torch(fresh, modules):
    wanted = [m.name for m in modules if m.name.startswith("gradscope_tui") or m.room in VIEWER_ROOMS]
    names = [name for name in wanted if not name.endswith("__main__")]
    assert len(names) > 10
    script = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n{_LOADED}"
    loaded = set(fresh(script, torch=False).split())
    assert "torch" not in loaded
    assert "gradscope" in loaded


def test_importing_a_room_of_the_viewers_side_does_not_load_torch_where_it_is_installed(fresh):
    names = [f"gradscope.{room}" for room in VIEWER_ROOMS]
    script = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n{_LOADED}"
    assert not {"torch", "textual", "typer"} & set(fresh(script).split())


def test_the_data_rooms_load_no_sockets(fresh):
    loaded = set(
        fresh(f"import sys, gradscope.protocol, gradscope.columns, gradscope.paths; {_LOADED}").split()
    )
    assert not {"zmq", "sqlite3", "asyncio", "pandas"} & loaded


def test_a_hub_starts_without_numpy(fresh):
    loaded = fresh(f"import sys, gradscope.hub.process; {_LOADED}").split()
    assert "zmq" in loaded
    assert not {"numpy", "sqlite3"} & set(loaded)


def test_rooms_that_hold_torch_load_no_sockets_and_no_screen(fresh):
    names = [f"gradscope.{room}" for room in TORCH_ROOMS]
    script = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n{_LOADED}"
    loaded = set(fresh(script).split())
    assert "torch" in loaded
    assert not {"zmq", "textual", "typer"} & loaded


def test_the_command_loads_neither_torch_nor_the_screen_before_a_command_is_chosen(fresh):
    assert not {"torch", "textual", "zmq"} & set(fresh(f"import sys, gradscope.cli; {_LOADED}").split())


def test_importing_any_module_starts_no_thread_opens_no_file_and_prints_nothing(fresh, modules):
    names = [
        m.name for m in modules if not m.name.endswith("__main__") and m.name not in NEEDS_A_PACKAGE
    ]
    script = f"""
import importlib, os, sys, threading
import torch, numpy
open_files = lambda: set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
before = threading.active_count(), open_files(), dict(os.environ)
for name in {names}:
    importlib.import_module(name)
assert (threading.active_count(), open_files(), dict(os.environ)) == before
"""
    assert fresh(script) == ""


def test_every_name_that_needs_torch_says_how_to_get_it_where_it_is_missing(fresh):
    names = sorted(gradscope._NEEDS_TORCH)
    script = f"""
import gradscope

def reported(lookup):
    try:
        lookup()
    except gradscope.errors.GradscopeError as error:
        print(type(error).__name__, error, sep=": ")

for name in {names}:
    for attempt in range(2):
        reported(lambda: getattr(gradscope, name))
    reported(lambda: exec(f"from gradscope import {{name}}"))
"""
    reason = "needs torch, which is not installed here: pip install torch"
    expected = [f"MissingTorchError: gradscope.{name} {reason}" for name in names for _ in range(3)]
    assert fresh(script, torch=False).splitlines() == expected


def test_all_other_names_work_where_torch_is_missing(fresh):
    names = [name for name in gradscope._HOME if name not in gradscope._NEEDS_TORCH]
    script = f"import gradscope\nfor name in {names}: print(getattr(gradscope, name).__name__)"
    last = [name.rpartition(".")[2] for name in fresh(script, torch=False).split()]
    assert last == names


def test_a_broken_torch_is_not_told_as_a_missing_one(fresh):
    script = """
import sys

class BrokenTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("libtorch.so: cannot open shared object file", name=name)

sys.meta_path.insert(0, BrokenTorch())
import gradscope
try:
    gradscope.attach
except ImportError as error:
    print(type(error).__name__, error)
"""
    assert fresh(script) == "ImportError libtorch.so: cannot open shared object file"


def test_the_facade_names_exactly_what_it_exports():
    assert set(gradscope.__all__) == {"__version__", *gradscope._HOME}
    assert dir(gradscope) == gradscope.__all__
    assert set(gradscope._HOME) >= gradscope._NEEDS_TORCH


def test_a_name_of_the_facade_is_that_of_its_room_and_is_looked_up_once():
    for name, home in gradscope._HOME.items():
        room = importlib.import_module(home)
        expected = room if home == f"gradscope.{name}" else getattr(room, name)
        assert getattr(gradscope, name) is expected
        assert vars(gradscope)[name] is expected


def test_a_name_that_the_facade_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'gradscope' has no attribute 'atach'$"):
        gradscope.atach  # noqa: B018 - the look-up is the test
    assert not hasattr(gradscope, "torch")


def test_the_version_is_that_of_the_distribution(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert gradscope.__version__ == project["version"]
