"""`tabagent sessions`, against a running server and one of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands.test_serve import run, serving
from tests.services.test_sessions import ok

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}}
SOUP: dict[str, Any] = {
    "tabagent_session": 1,
    "session": {
        "id": "sess_0000000000000000soup", "title": "Soup [red]today", "tags": ["kitchen"],
        "pinned": True, "system": "be brief", "title_by": "user",
    },
    "messages": [
        {"role": "user", "content": "How long \x1b[31mdoes it boil?\r\n"},
        {"role": "assistant", "content": None, "extra": {"tool_calls": [CALL]}},
        {"role": "tool", "content": "42", "extra": {"tool_call_id": "c1"}},
        {"role": "assistant", "content": "An ho", "status": "partial", "finish_reason": "cancelled",
         "extra": {"reasoning_content": "let me see"}},
        {"role": "user", "content": [{"type": "text", "text": "see "},
                                     {"type": "image_url", "image_url": {"url": "data:,x"}}]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A server's data directory, as an option, with three sessions in it."""
    data = tmp_path_factory.mktemp("sessions")
    with serving(data) as (_, url), httpx.Client(base_url=url) as client:
        ok(client.post("/v1/sessions/import", json={"data": SOUP}))
        ok(client.post("/v1/sessions", json={"id": "sess_0000000000000001ship", "title": "Ship"}))
        ok(client.post("/v1/sessions", json={"id": "old", "title": "Old"}))
        ok(client.patch("/v1/sessions/old", json={"archived": True}))
        yield ["--data-dir", str(data)]


def test_sessions_are_listed_searched_and_counted(place: list[str]) -> None:
    lines = run("sessions", "list", *place).stdout.splitlines()
    assert lines[0].split() == ["id", "title", "messages", "when", "tags", "pinned"]
    assert lines[1].split()[:4] == ["0000soup", "Soup", "[red]today", "5"]
    assert lines[1].split()[-2:] == ["kitchen", "yes"]
    assert lines[2].split()[:3] == ["0001ship", "Ship", "0"]
    assert len(lines) == 3
    assert "Old" in run("sessions", "list", "--archived", *place).stdout
    found = run("sessions", "list", "--search", "boil", *place).stdout
    assert "Soup" in found and "Ship" not in found
    assert run("sessions", "list", "--search", "nothing", *place).stdout == (
        "There is none with 'nothing'.\n"
    )
    short = run("sessions", "list", "--limit", "1", *place).stdout
    assert "Ship" not in short
    assert "There are more: --limit 2" in short


def test_a_conversation_is_shown_and_commands_nothing(place: list[str]) -> None:
    shown = run("sessions", "show", "soup", *place).stdout
    assert "\x1b" not in shown
    for words in (
        "Soup [red]today", "sess_0000000000000000soup", "be brief", "kitchen", "pinned",
        "How long  [31mdoes it boil?", '→ add({"n": 1})', "[partial: cancelled]", "let me see",
        "An ho", "see [image_url]",
    ):  # fmt: skip
        assert words in shown, words
    newest = run("sessions", "show", "soup", "--limit", "2", *place).stdout
    assert "… 3 earlier messages" in newest
    assert "boil" not in newest and "see [image_url]" in newest


def test_an_id_may_be_given_in_part_when_it_is_unambiguous(place: list[str]) -> None:
    for part in ("sess_0000000000000001ship", "ship", "0000000000000001", "ol"):
        assert run("sessions", "show", part, *place).returncode == 0, part
    both = run("sessions", "show", "sess_0", *place)
    assert both.returncode == 1
    assert "may be 2 sessions" in both.stderr
    assert "give more of its id" in both.stderr
    none = run("sessions", "show", "nobody", *place)
    assert (none.returncode, "there is no session nobody" in none.stderr) == (1, True)
    branch = run("sessions", "show", "ship", "--branch", "br_none", *place)
    assert (branch.returncode, "has no branch br_none" in branch.stderr) == (1, True)


@pytest.mark.parametrize("form", ["json", "markdown"])
def test_a_session_goes_out_and_in_again(place: list[str], tmp_path: Path, form: str) -> None:
    file = tmp_path / "out"
    written = run("sessions", "export", "soup", "--format", form, "--output", str(file), *place)
    assert written.stdout == f"{file} is written\n"
    with_newlines = file.read_bytes()
    taken = run("sessions", "import", str(file), *place)
    assert taken.returncode == 1
    assert "take it in beside that one: --new-ids" in taken.stderr
    beside = run("sessions", "import", str(file), "--new-ids", *place).stdout
    made = beside.split()[0]
    assert beside == f"{made} is here: 5 messages\n"
    # A server of its own in another place.
    other = ["--data-dir", str(tmp_path / "other")]
    assert run("sessions", "import", str(file), *other).returncode == 0
    again = tmp_path / "again"
    run("sessions", "export", "soup", "--format", form, "--output", str(again), *other)
    if form == "json":
        assert json.loads(again.read_bytes()) == json.loads(with_newlines)
        printed = run("sessions", "export", "soup", *place).stdout
        assert json.loads(printed) == json.loads(with_newlines)
    else:
        mark = slice(22, 30)  # which differs
        assert len(again.read_bytes()) == len(with_newlines)
        one, two = with_newlines.decode(), again.read_bytes().decode()
        assert one.replace(one[mark], two[mark]) == two
    assert run("sessions", "rm", made, "--yes", *place).stdout.endswith(" is deleted\n")
    assert run("sessions", "show", made, *place).returncode == 1


def test_what_is_no_exported_session_is_refused(place: list[str], tmp_path: Path) -> None:
    file = tmp_path / "notes"
    for content, words in (
        (b"# Notes", "is not an exported session"),
        (b"\xff", "is not UTF-8"),
        (b"<!-- x -->", "does not begin with the comment"),
        (b'{"a": 1}', "is not a session that was exported"),
    ):
        file.write_bytes(content)
        refused = run("sessions", "import", str(file), *place)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr
    missing = run("sessions", "import", str(tmp_path / "none"), *place)
    assert "cannot be read" in missing.stderr
    assert run("sessions", "export", "ship", "--format", "pdf", *place).returncode == 2


def test_nothing_is_deleted_unasked(place: list[str]) -> None:
    stays = run("sessions", "rm", "ship", "soup", *place)
    assert stays.returncode == 1
    assert "nobody can be asked" in stays.stderr
    none = run("sessions", "rm", "ship", "nobody", "--yes", *place)
    assert none.returncode == 1
    assert run("sessions", "show", "ship", *place).returncode == 0
