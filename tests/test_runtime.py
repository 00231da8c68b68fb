"""What a server keeps on disk for itself."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tabagent.runtime import DataDirectory, DirectoryInUse, Running, UnsafeFile


@pytest.fixture
def place(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory(tmp_path / "own")
    directory.take()
    return directory


def test_the_directory_is_ours_alone(place: DataDirectory) -> None:
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o700


def test_a_second_server_is_told_who_the_first_is(place: DataDirectory) -> None:
    place.announce(Running(4711, "http://127.0.0.1:1", "0"))
    program = (
        "import sys; from pathlib import Path\n"
        "from tabagent.runtime import *\n"
        "try: DataDirectory(Path(sys.argv[1])).take()\n"
        "except DirectoryInUse as e: print(e)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(place.path)], capture_output=True, text=True, check=True
    )
    assert "pid 4711" in said.stdout
    place.release()
    DataDirectory(place.path).take()


def test_in_use_without_an_announcement_still_is_in_use(place: DataDirectory) -> None:
    with pytest.raises(DirectoryInUse, match="unknown"):
        DataDirectory(place.path).take()


def test_commands_find_a_server_while_it_runs(place: DataDirectory) -> None:
    assert place.running() is None
    running = Running(1, "http://127.0.0.1:8080", "0.1")
    place.announce(running)
    assert place.running() == running
    file = place.path / "runtime.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    place.release()
    assert place.running() is None


def test_a_damaged_announcement_is_no_server(place: DataDirectory) -> None:
    for text in ("", "[]", '{"pid": 1}', "nonsense"):
        (place.path / "runtime.json").write_text(text)
        assert place.running() is None


def test_the_token_is_made_once_and_only_ours(place: DataDirectory) -> None:
    token = place.token()
    assert len(token) == 64
    assert place.token() == token
    assert stat.S_IMODE((place.path / "token").stat().st_mode) == 0o600


def test_a_token_that_others_can_read_is_refused(place: DataDirectory) -> None:
    place.token()
    (place.path / "token").chmod(0o644)
    with pytest.raises(UnsafeFile, match="chmod 600"):
        place.token()


def test_a_token_behind_a_link_is_refused(place: DataDirectory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x" * 64)
    (place.path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="link"):
        place.token()


def test_a_token_that_is_no_file_is_refused(place: DataDirectory) -> None:
    (place.path / "token").mkdir()
    with pytest.raises((UnsafeFile, IsADirectoryError)):
        place.token()


def test_an_empty_token_is_refused(place: DataDirectory) -> None:
    (place.path / "token").touch(0o600)
    with pytest.raises(UnsafeFile, match="holds no token"):
        place.token()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_of_another_user_is_refused(place: DataDirectory) -> None:
    place.token()
    os.chown(place.path / "token", 12345, -1)
    with pytest.raises(UnsafeFile, match="another user"):
        place.token()
