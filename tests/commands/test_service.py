"""`tabagent service` on Linux: the units, what systemd is asked, and what a person reads."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tabagent.commands.failure import CommandFailed
from tabagent.commands.options import load_settings
from tabagent.commands.service import install, status, system_here, uninstall
from tabagent.commands.systems.contract import MARK, Done, Service
from tabagent.commands.systems.systemd import Systemd, quoted, socket_unit, unit
from tabagent.config import Settings
from tests.commands.test_serve import run

ODD = 'my "own" gärten/50% \\ $HOME'
"""A name of a directory that a shell, systemd and XML each read differently."""


class FakeRun:
    """Keeps what it is asked, and answers what a test wants, or that all went well."""

    def __init__(self, answer: Callable[[str], Done | None] = lambda _: None) -> None:
        self.asked: list[str] = []
        self._answer = answer

    def __call__(self, command: Sequence[str]) -> Done:
        words = " ".join(command)
        self.asked.append(words)
        return self._answer(words) or Done(0)

    def steps(self) -> list[str]:
        """What changes something, without the program's name."""
        return [
            words.removeprefix("systemctl --user ")
            for words in self.asked
            if " show" not in words and "is-active" not in words
        ]


def only(words: str, done: Done) -> Callable[[str], Done | None]:
    return lambda asked: done if words in asked else None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / ODD)


def systemd(tmp_path: Path, run: FakeRun) -> tuple[Systemd, Path]:
    return Systemd(run, tmp_path / "config"), tmp_path / "config/systemd/user"


def command_of(text: str) -> list[str]:
    """The words of ExecStart, as systemd takes them apart."""
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart=").removeprefix(":").replace("%%", "%"))


def test_install_writes_a_unit_and_starts_it(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRun()
    system, place = systemd(tmp_path, fake)
    model = tmp_path / "a model.gguf"
    model.touch()
    install(settings, {"port": 8090, "host": None}, [str(model), "owner/repo"], system=system)
    assert fake.steps() == [
        "daemon-reload",
        "enable tabagent.service",
        "restart tabagent.service",
    ]
    file = place / "tabagent.service"
    assert command_of(file.read_text()) == [
        sys.executable, "-P", "-m", "tabagent", "serve", "--data-dir", str(settings.data_dir),
        "--port", "8090", "--model", str(model), "--model", "owner/repo",
    ]  # fmt: skip
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(place.iterdir()) == [file]  # no draft is left
    said = capsys.readouterr().out
    assert f"wrote {file}" in said
    assert "journalctl --user -u tabagent" in said
    assert "loginctl enable-linger" in said


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd's own look at a unit")
@pytest.mark.parametrize("folder", ["gärten of 50% $HOME", ODD])
@pytest.mark.parametrize("listen", [None, "127.0.0.1:8080"])
def test_systemd_itself_finds_nothing_wrong_with_the_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: str | None, folder: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    program = tmp_path / folder / "python"  # verify looks whether it can be executed
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    service = Service(
        (str(program), "-m", "tabagent", "serve", "--data-dir", f"/{ODD}"),
        Path(f"/{ODD}"),
        {"TABAGENT_CONFIG": f"/{ODD}/config.toml"},
        listen,
    )
    files = [tmp_path / "tabagent.service"]
    files[0].write_text(unit(service))
    if listen is not None:
        files.append(tmp_path / "tabagent.socket")
        files[1].write_text(socket_unit(listen))
    verify = ["systemd-analyze", "--user", "--man=no", "--recursive-errors=no", "verify"]

    def found() -> str:
        done = subprocess.run(
            [*verify, *map(str, files)], capture_output=True, text=True, timeout=30, check=False
        )
        return "\n".join(line for line in done.stderr.splitlines() if "tabagent" in line)

    assert found() == ""
    files[0].write_text(unit(service).replace("Type=notify", "Type=nothing\nWrong=1"))
    assert "Wrong" in found()  # it does look
    files[0].write_text(unit(service).replace("50%%", "60%%"))
    assert bool(found()) == (folder != ODD)  # and whether the program is there; a shell's it is


def test_a_program_that_systemd_would_not_start_is_started_by_a_shell(tmp_path: Path) -> None:
    program = tmp_path / ODD / "python"
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    words = command_of(unit(Service((str(program), "-c", "print('$HOME', 1)"), tmp_path)))
    assert words[0] == "/bin/sh"
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "$HOME 1\n"


def test_every_exit_code_that_stays_is_final() -> None:
    text = unit(Service(["/p"], Path("/d")))
    assert "Restart=on-failure" in text
    assert "RestartPreventExitStatus=2 3 75 78" in text
    assert "NoNewPrivileges=yes" in text
    assert "PrivateTmp" not in text  # the native socket may lie there


def test_a_variable_in_a_path_is_no_variable() -> None:
    assert "ExecStart=:" in unit(Service(["/a$b/python"], Path("/d")))
    assert 'ExecStart="/a' in unit(Service(["/a b/python"], Path("/d")))
    with pytest.raises(CommandFailed, match="cannot be written into a unit"):
        quoted("two\nExecStartPre=lines")


def test_the_configuration_file_that_was_named_is_named_to_the_service(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TABAGENT_CONFIG", "mine.toml")
    monkeypatch.setenv("TABAGENT_SLOTS", "2")
    monkeypatch.chdir(tmp_path)
    system, place = systemd(tmp_path, FakeRun())
    install(settings, {}, [], system=system)
    text = (place / "tabagent.service").read_text()
    assert f'Environment="TABAGENT_CONFIG={tmp_path}/mine.toml"' in text
    assert "TABAGENT_SLOTS" not in text
    assert "Not for the service" in (said := capsys.readouterr().out)
    assert said.count("TABAGENT_SLOTS") == 1


def test_with_a_socket_the_server_starts_when_somebody_connects(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRun()
    system, place = systemd(tmp_path, fake)
    install(settings, {}, [], socket=True, system=system)
    assert fake.steps() == ["daemon-reload", "enable tabagent.socket", "restart tabagent.socket"]
    assert "ListenStream=127.0.0.1:8080" in (place / "tabagent.socket").read_text()
    text = (place / "tabagent.service").read_text()
    assert "Requires=tabagent.socket" in text
    assert "[Install]" not in text
    assert "when somebody connects to 127.0.0.1:8080" in capsys.readouterr().out
    # Another kind of installation takes the place of this one, and leaves nothing of it.
    fake.asked.clear()
    install(settings, {}, [], system=system)
    assert fake.steps() == [
        "disable --now tabagent.socket",
        "disable --now tabagent.service",
        "daemon-reload",
        "enable tabagent.service",
        "restart tabagent.service",
    ]
    assert [file.name for file in place.iterdir()] == ["tabagent.service"]


@pytest.mark.parametrize(
    ("flags", "listen"),
    [
        ({"host": "::1"}, "[::1]:8080"),
        ({"host": "localhost", "port": 81}, "127.0.0.1:81"),
        ({"port": 0}, None),
        ({"mode": "native"}, None),
        ({"host": "example"}, None),
    ],
)
def test_a_socket_unit_has_an_address(
    tmp_path: Path, flags: dict[str, object], listen: str | None
) -> None:
    system, place = systemd(tmp_path, FakeRun())
    settings = load_settings(data_dir=tmp_path, **flags)
    if listen is None:
        with pytest.raises(CommandFailed, match="a socket unit needs"):
            install(settings, flags, [], socket=True, system=system)
        assert not place.exists()
    else:
        install(settings, flags, [], socket=True, system=system)
        assert f"ListenStream={listen}\n" in (place / "tabagent.socket").read_text()


def test_no_start_waits_for_the_next_login(settings: Settings, tmp_path: Path) -> None:
    fake = FakeRun()
    install(settings, {}, [], start=False, system=systemd(tmp_path, fake)[0])
    assert fake.steps() == ["daemon-reload", "enable tabagent.service"]


def test_without_systemd_nothing_is_written(settings: Settings, tmp_path: Path) -> None:
    gone = Done(1, err="Failed to connect to bus: No medium found\n")
    system, place = systemd(tmp_path, FakeRun(only("show", gone)))
    with pytest.raises(CommandFailed, match="No medium found") as caught:
        install(settings, {}, [], system=system)
    assert caught.value.code == 69
    assert not place.exists()


def test_what_systemd_refuses_is_said_in_its_words(settings: Settings, tmp_path: Path) -> None:
    fake = FakeRun(only("enable", Done(1, err="Unit is masked\n")))
    with pytest.raises(CommandFailed, match=r"systemctl enable tabagent\.service: Unit is masked"):
        install(settings, {}, [], system=systemd(tmp_path, fake)[0])


@pytest.mark.parametrize(
    ("code", "says"),
    [("3", "the port is taken"), ("75", "another server owns"), ("1", "Job failed"), ("", "Job")],
)
def test_a_start_that_fails_says_why(
    settings: Settings, tmp_path: Path, code: str, says: str
) -> None:
    def answer(words: str) -> Done | None:
        if "restart" in words:
            return Done(1, err="See the log.\nJob failed")
        return Done(0, out=f"ExecMainStatus={code}\n") if "ExecMainStatus" in words else None

    with pytest.raises(CommandFailed, match=says) as caught:
        install(settings, {}, [], system=systemd(tmp_path, FakeRun(answer))[0])
    assert "journalctl" in caught.value.hint


def test_uninstall_stops_it_and_takes_everything_back(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRun()
    system, place = systemd(tmp_path, fake)
    install(settings, {}, [], socket=True, system=system)
    fake.asked.clear()
    uninstall(settings, system=system)
    assert fake.steps()[:3] == [
        "disable --now tabagent.socket",
        "disable --now tabagent.service",
        "daemon-reload",
    ]
    assert list(place.iterdir()) == []
    assert f"removed {place / 'tabagent.socket'}" in capsys.readouterr().out
    uninstall(settings, system=system)
    assert "No service is installed." in capsys.readouterr().out


def test_uninstall_without_systemd_removes_files_and_links(
    settings: Settings, tmp_path: Path
) -> None:
    system, place = systemd(tmp_path, FakeRun())
    install(settings, {}, [], system=system)
    wants = place / "default.target.wants"
    wants.mkdir()
    (wants / "tabagent.service").symlink_to(place / "tabagent.service")
    (wants / "other.service").touch()
    gone = Systemd(FakeRun(only("show", Done(1))), tmp_path / "config")
    uninstall(settings, system=gone)
    assert [file.name for file in place.rglob("*.service")] == ["other.service"]


def test_a_unit_of_somebody_else_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    fake = FakeRun()
    system, place = systemd(tmp_path, fake)
    place.mkdir(parents=True)
    own = place / "tabagent.service"
    own.write_text("[Service]\nExecStart=/mine\n")
    with pytest.raises(CommandFailed, match="is not ours"):
        install(settings, {}, [], system=system)
    with pytest.raises(CommandFailed, match="is not ours"):
        uninstall(settings, system=system)
    assert own.read_text() == "[Service]\nExecStart=/mine\n"
    assert fake.steps() == []


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ("ActiveState=active\nMainPID=42", "Runs: pid 42"),
        ("ActiveState=failed\nExecMainStatus=3", "Does not run: failed: the port is taken"),
        ("ActiveState=inactive\nExecMainStatus=0", "Does not run: inactive"),
    ],
)
def test_status_says_by_which_file_and_whether_it_runs(
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    facts: str,
    says: str,
) -> None:
    fake = FakeRun(only("ActiveState", Done(0, out=facts + "\n")))
    system, place = systemd(tmp_path, fake)
    status(settings, system=system)
    assert capsys.readouterr().out == "Not installed: tabagent service install\n"
    install(settings, {}, [], system=system)
    capsys.readouterr()
    status(settings, system=system)
    assert capsys.readouterr().out == f"Installed: {place / 'tabagent.service'}\n{says}\n"


def test_status_knows_of_a_socket_and_of_no_systemd(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system, _ = systemd(tmp_path, FakeRun(only("is-active", Done(0, out="active\n"))))
    install(settings, {}, [], socket=True, system=system)
    status(settings, system=system)
    assert "its socket is active" in capsys.readouterr().out
    gone, _ = systemd(tmp_path, FakeRun(only("show", Done(1))))
    status(settings, system=gone)
    assert "systemd does not run for this user" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_refused_before_anything_is_written(
    settings: Settings, tmp_path: Path
) -> None:
    system, place = systemd(tmp_path, FakeRun())
    with pytest.raises(CommandFailed, match="is no file"):
        install(settings, {}, ["/nowhere/x.gguf"], system=system)
    assert not place.exists()


def test_from_the_shell_with_a_systemctl_that_notes_what_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/systemctl"
    fake.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/told"\necho ActiveState=inactive\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    data = ["--data-dir", str(tmp_path / "d")]
    done = run("service", "install", "--port", "8099", *data)
    assert done.returncode == 0, done.stderr
    assert "--user restart tabagent.service" in (tmp_path / "told").read_text()
    unit_file = tmp_path / "config/systemd/user/tabagent.service"
    assert MARK in unit_file.read_text()
    assert str(unit_file) in run("service", "status", *data).stdout
    assert run("service", "uninstall", *data).returncode == 0
    assert not unit_file.exists()
    # And on a machine that has none.
    fake.unlink()
    refused = run("service", "install", *data)
    assert refused.returncode == 69
    assert "there is no systemctl here" in refused.stderr
    assert not unit_file.exists()
    wrong = run("service", "install", "--port", "99999", *data)
    assert (wrong.returncode, "port (from flag --port)" in wrong.stderr) == (78, True)


def test_a_system_that_nobody_knows_is_refused(settings: Settings) -> None:
    with pytest.raises(CommandFailed, match="no service for plan9"):
        system_here(settings, platform="plan9")
    assert isinstance(system_here(settings, platform="linux"), Systemd)
