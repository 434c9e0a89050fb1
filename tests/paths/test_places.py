"""Where things lie follows the environment; a directory that is not this user's alone is refused."""

import os
import stat
from pathlib import Path

import pytest

from gradscope.errors import UnsafePathError
from gradscope.paths import (
    SOCKET_PATH_LIMIT_BYTES,
    data_dir,
    ensure_private_dir,
    recordings_dir,
    runtime_dir,
)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _refusal(path: Path) -> str:
    with pytest.raises(UnsafePathError) as caught:
        ensure_private_dir(path)
    return str(caught.value)


def test_the_environment_chooses_both_directories(places: Path):
    assert runtime_dir() == places / "run"
    assert data_dir() == places / "data"
    assert recordings_dir() == places / "data" / "recordings"


@pytest.mark.parametrize("unset", [None, ""])
def test_without_the_environment_the_runtime_directory_is_node_local_and_the_users(
    places, monkeypatch, unset
):
    for name in ("GRADSCOPE_RUNTIME_DIR", "GRADSCOPE_DATA_DIR"):
        monkeypatch.delenv(name)
        if unset is not None:
            monkeypatch.setenv(name, unset)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(places / "login-node"))
    assert runtime_dir() == Path(f"/tmp/gradscope-{os.getuid()}")
    assert data_dir().name == "gradscope"
    assert data_dir().is_absolute()


def test_a_relative_choice_becomes_absolute_for_the_hub_works_in_another_directory(places, monkeypatch):
    monkeypatch.chdir(places)
    monkeypatch.setenv("GRADSCOPE_RUNTIME_DIR", "here/run")
    monkeypatch.setenv("GRADSCOPE_DATA_DIR", "data")
    assert runtime_dir() == places / "here" / "run"
    assert data_dir() == places / "data"


def test_asking_where_something_is_creates_nothing(places: Path):
    runtime_dir(), data_dir(), recordings_dir()
    assert list(places.iterdir()) == []


def test_a_missing_directory_is_created_for_its_user_alone_whatever_the_umask(places: Path):
    before = os.umask(0)
    try:
        assert ensure_private_dir(places / "deep" / "run") == places / "deep" / "run"
    finally:
        os.umask(before)
    assert _mode(places / "deep" / "run") == 0o700


def test_a_private_directory_that_is_there_is_taken_as_it_is(places: Path):
    directory = places / "run"
    directory.mkdir(mode=0o700)
    (directory / "agents.sock").touch()
    assert ensure_private_dir(directory) == ensure_private_dir(directory) == directory
    assert [path.name for path in directory.iterdir()] == ["agents.sock"]


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o704, 0o750, 0o755, 0o770, 0o777, 0o1777])
def test_a_directory_that_is_open_to_others_is_refused_and_left_as_it_is(places: Path, mode: int):
    directory = places / "run"
    directory.mkdir()
    directory.chmod(mode)
    assert _refusal(directory) == (
        f"{directory} is open to other users (mode {mode:04o}, expected 0700); "
        f"run: chmod 700 {directory}"
    )
    assert _mode(directory) == mode


def test_the_advice_of_the_refusal_helps(places: Path):
    directory = places / "run"
    directory.mkdir()
    directory.chmod(0o755)
    advice = _refusal(directory).rpartition("run: ")[2].split()
    assert advice == ["chmod", "700", str(directory)]
    directory.chmod(int(advice[1], 8))
    assert ensure_private_dir(directory) == directory


def test_a_symbolic_link_is_refused_even_to_a_private_directory(places: Path):
    (places / "real").mkdir(mode=0o700)
    (places / "run").symlink_to(places / "real")
    assert "must be a directory, not a symbolic link or a file" in _refusal(places / "run")


def test_a_symbolic_link_to_nothing_is_refused_and_nothing_is_created_behind_it(places: Path):
    (places / "run").symlink_to(places / "nothing")
    assert str(places / "run") in _refusal(places / "run")
    assert not (places / "nothing").exists()


def test_a_file_as_runtime_directory_is_refused(places: Path):
    (places / "run").touch(mode=0o600)
    assert "must be a directory, not a symbolic link or a file" in _refusal(places / "run")


def test_a_directory_below_a_file_is_refused(places: Path):
    (places / "file").touch()
    assert "cannot create the directory" in _refusal(places / "file" / "run")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_of_another_user_is_refused(places: Path):
    directory = places / "run"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    assert _refusal(directory) == (
        f"{directory} belongs to user 12345, expected 0; "
        "set GRADSCOPE_RUNTIME_DIR to a directory of your own"
    )


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
def test_a_directory_that_cannot_be_created_is_refused_with_the_systems_reason(places: Path):
    places.chmod(0o500)
    assert "(Permission denied)" in _refusal(places / "run")
    places.chmod(0o700)


def test_a_path_is_refused_at_the_byte_from_which_no_socket_fits(places: Path):
    room = SOCKET_PATH_LIMIT_BYTES - 1 - len(os.fsencode(places / "viewers.sock")) - len("/")
    assert ensure_private_dir(places / ("x" * room)).is_dir()
    words = _refusal(places / ("y" * (room + 1)))
    assert "is too long for a socket: expected fewer than 104 bytes, got 104" in words
    assert "GRADSCOPE_RUNTIME_DIR" in words
    assert not (places / ("y" * (room + 1))).exists()


def test_a_path_is_measured_in_bytes_and_not_in_characters(places: Path):
    assert "is too long for a socket" in _refusal(places / ("é" * 45))
