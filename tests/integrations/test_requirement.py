"""What is said of a package that is missing or too old."""

import pytest

from gradscope.errors import UsageError
from gradscope.errors.requirement import require


def test_an_installed_version_is_accepted():
    require("numpy", "1.26")
    require("torch", "2")


def test_a_missing_package_is_named_with_the_line_for_pip():
    with pytest.raises(
        UsageError, match=r"no-such-package 2\.5 or newer .* not installed: pip install"
    ):
        require("no-such-package", "2.5")


def test_an_old_package_is_named_with_its_version():
    with pytest.raises(
        UsageError, match=r"numpy 99\.1 or newer .* is installed: pip install 'numpy>=99\.1'"
    ):
        require("numpy", "99.1")


@pytest.mark.processes
@pytest.mark.parametrize("name", ["lightning", "transformers", "accelerate"])
def test_an_integration_without_its_package_says_which_one(fresh_without, name):
    hidden = ["lightning", "pytorch_lightning", "transformers", "accelerate"]
    said = fresh_without(hidden, f"import gradscope.integrations.{name}")
    assert f"UsageError: {name}" in said
    assert f"pip install '{name}>=" in said
