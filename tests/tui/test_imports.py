"""The modules that imports load, and when."""

import subprocess
import sys

import pytest


def loaded_by(code, *names):
    """Return which of the modules a fresh interpreter has loaded after the code."""
    show = f"import sys; print(*[n for n in {names!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def test_importing_the_package_loads_nothing():
    assert loaded_by("import gradscope_tui", "textual", "numpy", "zmq", "torch", "gradscope") == []


@pytest.mark.parametrize("module", ["app", "plain"])
def test_the_app_never_loads_torch_and_loads_zmq_only_to_connect(module):
    assert loaded_by(f"import gradscope_tui.{module}", "torch", "zmq", "gradscope.client") == []


def test_the_store_and_the_plain_table_need_no_textual():
    assert loaded_by("import gradscope_tui.store.session, gradscope_tui.plain", "textual") == []
