"""`tabagent chat` in a real terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from tabagent.runtime import DataDirectory, Running
from tests.commands.test_serve import TABAGENT
from tests.live import FAKE, LiveServer, eventually, fake_model

PROMPT = r">.*\x1b\[\?25h"  # drawn, and the cursor is shown again
UP, CTRL_C = "\x1b[A", "\x03"


def open_chat(data: Path, *more: str, ignoring: str = "") -> Any:
    command = [sys.executable, "-m", "tabagent", "chat", "--data-dir", str(data), *more]
    return pexpect.spawn(
        "/bin/sh",
        ["-c", f'trap "" {ignoring}; exec "$0" "$@"' if ignoring else 'exec "$0" "$@"', *command],
        encoding="utf-8",
        timeout=30,
        dimensions=(40, 100),
        env={**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1"},
    )


@contextmanager
def announced(server: LiveServer) -> Iterator[None]:
    """Commands find this server, as they find one that holds its directory."""
    directory = DataDirectory(server.settings.data_dir)
    directory.take()
    directory.announce(Running(os.getpid(), server.url, "test"))
    yield
    directory.release()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Any]:
    child = open_chat(tmp_path / "d")
    yield child
    child.close(force=True)


def test_a_conversation_from_an_empty_machine(terminal: Any) -> None:
    terminal.expect("Chatting with tabagent/guide")
    server = psutil.Process(terminal.pid).children()[0]
    terminal.sendline("How do I pull a model?")
    terminal.expect("tabagent pull")
    terminal.expect(PROMPT)
    terminal.send(UP)
    terminal.expect("How do I pull a model")
    terminal.sendline("")
    terminal.expect("tabagent pull")
    terminal.expect(PROMPT)
    terminal.sendline("/help")
    terminal.expect("/clear")
    terminal.sendline("/models")
    terminal.expect("  tabagent/guide")
    terminal.sendline("/clear")
    terminal.expect("forgotten")
    terminal.sendline("/model nobody/nothing")
    terminal.sendline("Hello")
    terminal.expect("there is no model named")
    terminal.sendline("/exit")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
    assert not server.is_running()


def test_a_model_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    command = [*TABAGENT, "chat", "--model", "nobody/nothing", "--data-dir", str(tmp_path)]
    result = subprocess.run(
        command, input="Hello\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "there is no model named 'nobody/nothing' here" in result.stderr
    assert "Chatting" not in result.stdout


def test_ctrl_c_at_the_prompt_leaves(terminal: Any) -> None:
    terminal.expect("Chatting with")
    terminal.expect(PROMPT)
    terminal.send(CTRL_C)
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


@pytest.mark.parametrize("ignoring", ["", "INT"])  # as background jobs of a shell are started
def test_ctrl_c_stops_an_answer_and_the_next_leaves(tmp_path: Path, ignoring: str) -> None:
    with LiveServer(tmp_path, extra=[fake_model()]) as server, announced(server):
        terminal = open_chat(tmp_path, "--model", FAKE, ignoring=ignoring)
        terminal.expect("Chatting with fake/counter")
        terminal.sendline("1000 sleep")
        terminal.expect("1 2 3 4 ")
        terminal.send(CTRL_C)
        terminal.expect("stopped")
        eventually(lambda: server.idle(), 2)
        terminal.sendline("9 crash")
        terminal.expect("the worker died: signal SIGABRT")
        terminal.sendline("2")
        terminal.expect("1 2 ")
        terminal.expect(PROMPT)
        terminal.send(CTRL_C)
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 0
    assert not terminal.isalive()


def test_reasoning_is_shown_faintly_and_not_sent_back(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()]) as server, announced(server):
        terminal = open_chat(tmp_path, "--model", FAKE)
        terminal.expect(PROMPT)
        terminal.sendline("2 think")
        terminal.expect(re.escape("\x1b[2mhm \x1b[0m") + r"\s+1 2 ")
        terminal.expect(PROMPT)
        terminal.sendline("report")
        terminal.expect(r'"role": "assistant", "content": "1 2 "\}')
        terminal.expect(PROMPT)
        terminal.sendline("/exit")
        terminal.expect(pexpect.EOF)
        terminal.wait()


def test_a_chat_that_is_killed_takes_its_server_with_it(terminal: Any) -> None:
    terminal.expect("Chatting with tabagent/guide")
    terminal.sendline("Hello")
    terminal.expect(PROMPT)
    chat = psutil.Process(terminal.pid)
    # The server, its worker and the template renderer.
    eventually(lambda: len(chat.children(recursive=True)) == 3, 10)
    family = chat.children(recursive=True)
    psutil.Process(terminal.pid).kill()
    eventually(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), 10)


def test_lines_from_a_pipe_are_answered_too(tmp_path: Path) -> None:
    result = subprocess.run(
        [*TABAGENT, "chat", "--data-dir", str(tmp_path)],
        input="Hello\nWhat is TabAgent?\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "gateway" in result.stdout
