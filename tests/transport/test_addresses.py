from pathlib import Path

import pytest

from gradscope.errors import UsageError
from gradscope.transport import hub_address


def test_the_default_is_the_runtime_directory(places: Path) -> None:
    address = hub_address()
    assert address.agents == f"ipc://{places}/run/agents.sock"
    assert address.viewers == f"ipc://{places}/run/viewers.sock"
    assert address.directory == places / "run"


def test_an_endpoint_may_be_a_directory_or_an_ipc_url(places: Path) -> None:
    assert hub_address("/tmp/there") == hub_address("ipc:///tmp/there")
    assert hub_address("ipc:///tmp/there").viewers_path == Path("/tmp/there/viewers.sock")


def test_the_environment_names_a_hub(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_HUB", "/tmp/other")
    assert hub_address().directory == Path("/tmp/other")
    assert hub_address("/tmp/named").directory == Path("/tmp/named")


def test_a_relative_directory_means_the_same_in_the_hub_which_runs_elsewhere(places: Path) -> None:
    assert hub_address("here").directory == Path.cwd() / "here"


def test_another_scheme_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(UsageError, match=r"tcp://host:1.*expected.*ipc://DIRECTORY.*ssh"):
        hub_address("tcp://host:1")
