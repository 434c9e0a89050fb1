from pathlib import Path

import pytest

from gradscope.errors import UsageError
from gradscope.transport import hub_address, split_target


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
    with pytest.raises(UsageError, match=r"udp://host:1.*expected.*ipc://DIRECTORY.*tcp://HOST:PORT"):
        hub_address("udp://host:1")


def test_an_address_of_another_machine_has_a_host_and_a_port_and_is_for_viewers_only() -> None:
    for endpoint in ("tcp://host:5711", "tcp://[::1]:1", "tcp://10.0.0.1:65535"):
        address = hub_address(endpoint)
        assert (address.is_remote, address.viewers, address.place) == (True, endpoint, endpoint)
        with pytest.raises(UsageError, match=r"viewers only.*GRADSCOPE_HUB"):
            _ = address.directory
    for endpoint in ("tcp://host", "tcp://host:0", "tcp://*:1", "tcp://host:65536", "tcp://a b:1"):
        with pytest.raises(UsageError, match="expected tcp://HOST:PORT"):
            hub_address(endpoint)


def test_a_target_is_a_run_or_an_address_with_or_without_a_run() -> None:
    assert split_target(None) == (None, None)
    assert split_target("a/b") == (None, "a/b")
    assert split_target("tcp://h:1") == ("tcp://h:1", None)
    assert split_target("tcp://h:1/a/b") == ("tcp://h:1", "a/b")
