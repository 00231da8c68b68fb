"""`tabagent service` on macOS and Windows: what is written, and what the system is asked."""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tabagent.commands.detached import LARGE, log_where_nobody_reads
from tabagent.commands.failure import CommandFailed
from tabagent.commands.options import load_settings
from tabagent.commands.service import install, status, system_here, uninstall
from tabagent.commands.systems.contract import Done, Service, run
from tabagent.commands.systems.launchd import Launchd
from tabagent.commands.systems.task_scheduler import NAMESPACE, TaskScheduler, without_console
from tabagent.config import Settings
from tabagent.runtime import DataDirectory, Running
from tests.commands.test_service import ODD, FakeRun, only

MAC_PRINT = "gui/501/tabagent.server = {\n\tstate = running\n\tpid = 77\n}\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / ODD)


def launchd(tmp_path: Path, run: FakeRun) -> tuple[Launchd, Path]:
    file = tmp_path / "home/Library/LaunchAgents/tabagent.server.plist"
    return Launchd(run, tmp_path / "home", 501, sleep=lambda _: None), file


def not_loaded(words: str) -> Done | None:
    return Done(113, err="Could not find service") if "print" in words else None


def test_an_agent_is_written_and_loaded(settings: Settings, tmp_path: Path) -> None:
    fake = FakeRun(not_loaded)
    system, file = launchd(tmp_path, fake)
    install(settings, {"log_level": "debug"}, [], system=system)
    assert fake.asked[1:] == [
        "launchctl enable gui/501/tabagent.server",
        f"launchctl bootstrap gui/501 {file}",
    ]
    agent = plistlib.loads(file.read_bytes())
    assert agent["ProgramArguments"] == [
        sys.executable, "-P", "-m", "tabagent", "serve",
        "--data-dir", str(settings.data_dir), "--log-level", "debug",
    ]  # fmt: skip
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["RunAtLoad"] is True
    assert agent["Umask"] == 0o077
    assert agent["ExitTimeOut"] > settings.drain_s


def test_an_agent_that_runs_is_ended_before_another_takes_its_place(
    settings: Settings, tmp_path: Path
) -> None:
    looks = iter([Done(0, MAC_PRINT), Done(0, MAC_PRINT), Done(0, MAC_PRINT), Done(113)])
    fake = FakeRun(lambda words: next(looks) if "print" in words else None)
    system, _ = launchd(tmp_path, fake)
    install(settings, {}, [], system=system)
    told = [words.split()[1] for words in fake.asked]
    assert told == ["print", "bootout", "print", "print", "print", "enable", "bootstrap"]
    with pytest.raises(CommandFailed, match="launchd still runs"):
        install(
            settings,
            {},
            [],
            system=launchd(tmp_path, FakeRun(only("print", Done(0, MAC_PRINT))))[0],
        )


def test_a_session_without_a_screen_is_told_so(settings: Settings, tmp_path: Path) -> None:
    refused = Done(125, err="Bootstrap failed: 125: Domain does not support specified action\n")
    fake = FakeRun(lambda words: refused if "bootstrap" in words else not_loaded(words))
    with pytest.raises(CommandFailed, match="Domain does not support") as caught:
        install(settings, {}, [], system=launchd(tmp_path, fake)[0])
    assert "ssh" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (Done(0, MAC_PRINT), "Runs: pid 77"),
        (Done(0, "\tlast exit code = 3\n"), "Does not run: the port is taken"),
        (Done(0, "\tlast exit code = 9\n"), "Does not run: it ended with 9"),
        (Done(113), "Does not run: not loaded"),
    ],
)
def test_status_reads_what_launchd_prints(
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    said: Done,
    shown: str,
) -> None:
    system, file = launchd(tmp_path, FakeRun(not_loaded))
    status(settings, system=system)
    install(settings, {}, [], system=system)
    capsys.readouterr()
    status(settings, system=launchd(tmp_path, FakeRun(only("print", said)))[0])
    assert capsys.readouterr().out == f"Installed: {file}\n{shown}\n"
    uninstall(settings, system=system)
    assert not file.exists()
    uninstall(settings, system=system)
    assert "No service is installed." in capsys.readouterr().out


def test_an_agent_of_somebody_else_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    system, file = launchd(tmp_path, FakeRun(not_loaded))
    file.parent.mkdir(parents=True)
    file.write_bytes(plistlib.dumps({"Label": "tabagent.server"}))
    with pytest.raises(CommandFailed, match="is not ours"):
        install(settings, {}, [], system=system)
    with pytest.raises(CommandFailed, match="is not ours"):
        uninstall(settings, system=system)


def test_only_systemd_opens_a_port(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="only systemd"):
        install(settings, {}, [], socket=True, system=launchd(tmp_path, FakeRun())[0])


def no_task(words: str) -> Done | None:
    return (
        Done(1, err="ERROR: The system cannot find the file specified.")
        if "/Query" in words
        else None
    )


def test_a_task_is_written_and_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / 'my "own" gärten'
    fake = FakeRun(no_task)
    system = TaskScheduler(fake, place, "HOME\\Änne")
    settings = load_settings(data_dir=place)
    install(settings, {"port": 8090}, [], system=system)
    file = place / "service.xml"
    assert fake.asked[1:] == [
        f"schtasks /Create /TN TabAgent /XML {file} /F",
        "schtasks /End /TN TabAgent",
        "schtasks /Run /TN TabAgent",
    ]
    assert file.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")  # what schtasks takes
    task = ET.fromstring(file.read_text("utf-16").partition("?>")[2])
    said = {element.tag.removeprefix(f"{{{NAMESPACE}}}"): element.text for element in task.iter()}
    assert said["Command"] == sys.executable
    assert said["Arguments"] == subprocess.list2cmdline(
        ["-P", "-m", "tabagent", "serve", "--data-dir", str(place), "--port", "8090"]
    )
    assert said["UserId"] == "HOME\\Änne"
    assert (said["ExecutionTimeLimit"], said["RunLevel"]) == ("PT0S", "LeastPrivilege")
    capsys.readouterr()
    status(settings, system=system)
    assert capsys.readouterr().out == f"Installed: {file}\nDoes not run: no such task\n"


def test_whether_a_task_runs_is_asked_of_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(data_dir=tmp_path)
    install(settings, {}, [], system=TaskScheduler(FakeRun(no_task), tmp_path, "me"))
    ours = FakeRun(only("/Query", Done(0, out=(tmp_path / "service.xml").read_text("utf-16"))))
    system = TaskScheduler(ours, tmp_path, "me")
    capsys.readouterr()
    status(settings, system=system)
    assert "Does not run\n" in capsys.readouterr().out
    DataDirectory(tmp_path).announce(Running(os.getpid(), "", "0"))
    status(settings, system=system)
    assert f"Runs: pid {os.getpid()}\n" in capsys.readouterr().out
    uninstall(settings, system=system)
    assert "schtasks /Delete /TN TabAgent /F" in ours.asked
    assert not (tmp_path / "service.xml").exists()


def test_a_task_of_somebody_else_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    fake = FakeRun(only("/Query", Done(0, out="<Task/>")))
    system = TaskScheduler(fake, tmp_path, "me")
    with pytest.raises(CommandFailed, match="another task named TabAgent"):
        install(load_settings(data_dir=tmp_path), {}, [], system=system)
    with pytest.raises(CommandFailed, match="another task named TabAgent"):
        uninstall(settings, system=system)
    assert not any("/Create" in words or "/Delete" in words for words in fake.asked)


def test_what_windows_would_replace_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = TaskScheduler(FakeRun(no_task), tmp_path, "me")
    with pytest.raises(CommandFailed, match="cannot be written into a task"):
        install(settings, {}, [], system=system)  # a percent sign is in its data directory
    monkeypatch.setenv("TABAGENT_CONFIG", "x")
    with pytest.raises(CommandFailed, match="a task takes no TABAGENT_CONFIG"):
        install(settings, {}, [], system=system)


def test_a_refusal_of_the_scheduler_is_said_in_its_words(tmp_path: Path) -> None:
    denied = Done(1, err="ERROR: Access is denied.\n")
    fake = FakeRun(lambda words: denied if "/Create" in words else no_task(words))
    with pytest.raises(CommandFailed, match=r"/Create: ERROR: Access is denied\."):
        install(
            load_settings(data_dir=tmp_path), {}, [], system=TaskScheduler(fake, tmp_path, "me")
        )


def test_the_interpreter_without_a_window_is_taken_where_there_is_one(tmp_path: Path) -> None:
    python = str(tmp_path / "python.exe")
    assert without_console(python) == python
    silent = tmp_path / "pythonw.exe"
    silent.touch()
    assert Path(without_console(python)) == silent


def test_each_system_has_its_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDOMAIN", "D")
    assert isinstance(system_here(settings, platform="darwin"), Launchd)
    assert isinstance(system_here(settings, platform="win32"), TaskScheduler)


def test_the_real_runner_says_how_a_command_ended() -> None:
    done = run(["sh", "-c", "echo out; echo first >&2; echo last >&2; exit 4"])
    assert (done.code, done.out, done.said) == (4, "out\n", "last")
    assert run(["no-such-program"]) == Done(127, err="there is no no-such-program here")
    assert Done(9).said == "exit code 9"


def test_a_server_without_a_console_writes_a_log(tmp_path: Path) -> None:
    """As it is started on Windows, where such a process has no standard output at all."""
    data = tmp_path / "d"
    program = (
        "import sys; sys.stdout = sys.stderr = None; sys.argv[0] = 'tabagent';"
        "from tabagent.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--port", "0", "--data-dir", str(data)]
    )
    try:
        deadline = time.monotonic() + 20
        while DataDirectory(data).running() is None:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = subprocess.run(
            [sys.executable, "-c", program, "serve", "--port", "0", "--data-dir", str(data)],
            timeout=30,
            check=False,
        )
        assert second.returncode == 75
    finally:
        process.terminate()
        process.wait(20)
    log = (data / "server.log").read_text()
    assert "listens at http://" in log
    assert "Error: another server" in log


def test_a_large_log_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        out.truncate(LARGE + 1)
    log_where_nobody_reads(tmp_path)  # there is a console, so nothing happens
    assert log.stat().st_size == LARGE + 1
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    log_where_nobody_reads(tmp_path)
    print("new", file=sys.stderr)
    sys.stderr.close()
    assert log.read_text() == "new\n"
    assert (tmp_path / "server.old.log").stat().st_size == LARGE + 1


def test_a_service_has_time_to_stop() -> None:
    assert Service(["/p"], Path("/d")).stop_s > Settings().drain_s
