"""`tabagent sessions`: kept conversations listed, shown, taken out and in, and deleted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tabagent.commands.client import call, raise_for_problem, server
from tabagent.commands.failure import CommandFailed
from tabagent.config import Settings

PAGE: Final = 200
SHORT: Final = 8  # characters of an id's end, which differ between two sessions
MADE: Final = "sess_"
COLOURS: Final = {"user": "green", "assistant": "cyan", "system": "magenta", "tool": "yellow"}
SHOWN_CONTROLS: Final = "\n\t"
console = Console()


def show_list(settings: Settings, search: str | None, *, archived: bool, limit: int) -> None:
    """A line for each session: pinned ones first, then the last used."""
    with server(settings) as client:
        rows: list[dict[str, Any]] = []
        for row in _sessions(client, search=search, archived=archived, most=limit + 1):
            rows.append(row)
    if not rows:
        print("There are none." if search is None else f"There is none with {search!r}.")
        return
    table = Table(
        Column("id", no_wrap=True),
        Column("title", overflow="fold", ratio=1),
        Column("messages", justify="right", no_wrap=True),
        Column("when", no_wrap=True),
        Column("tags", overflow="fold"),
        Column("pinned", no_wrap=True),
        box=None,
        pad_edge=False,
    )
    for row in rows[:limit]:
        table.add_row(
            short(row["id"]),
            Text(plain(row["title"] or "-")),
            str(row["message_count"]),
            moment(row["updated_at"]),
            Text(plain(", ".join(row["tags"]))),
            "yes" if row["pinned"] else "",
        )
    console.print(table)
    if len(rows) > limit:
        console.print(f"\nThere are more: --limit {2 * limit}", style="dim", highlight=False)


def show_session(settings: Settings, given: str, limit: int, branch: str | None) -> None:
    """The conversation, its newest messages at the end."""
    with server(settings) as client:
        session = find(client, given)
        rows, total = _messages(client, session["id"], limit, branch)
    console.print(Text(plain(session["title"] or "Session"), style="bold"))
    about = [
        session["id"],
        f"{total} messages" + ("" if branch is None else f" in {branch}"),
        *([session["model"]] if session["model"] else []),
        *([", ".join(session["tags"])] if session["tags"] else []),
        *(word for word in ("pinned", "archived") if session[word]),
    ]
    console.print(Text(plain(" · ".join(about)), style="dim"))
    if session["system"]:
        _say("system", None, session["system"])
    if len(rows) < total:
        words = f"… {total - len(rows)} earlier messages: --limit {total}"
        console.print(f"\n{words}", style="dim", highlight=False)
    for row in rows:
        _show(row)


def export(settings: Settings, given: str, form: str, output: Path | None) -> None:
    """A whole session into a file, or to stdout."""
    with server(settings) as client:
        id_ = quote(find(client, given)["id"], safe="")
        out = call(client, "GET", f"/v1/sessions/{id_}/export?{urlencode({'format': form})}")
    text = out["text"] if form == "markdown" else _json(out["data"])
    content = text.encode()  # as it is: line ends are a part of what was said
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written: {error.strerror}") from error
    print(f"{output} is written")


def import_(settings: Settings, file: Path, *, new_ids: bool) -> None:
    """A session out of a file that `export` wrote, of either form."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file} is not UTF-8") from error
    body: dict[str, Any] = {"new_ids": new_ids}
    if text.startswith("<!--"):
        body["text"] = text
    else:
        try:
            body["data"] = json.loads(text)
        except (ValueError, RecursionError) as error:
            hint = "it is what `tabagent sessions export` wrote, JSON or Markdown"
            raise CommandFailed(f"{file} is not an exported session", hint) from error
    with server(settings) as client:
        response = client.post("/v1/sessions/import", json=body)
        if response.status_code == httpx.codes.CONFLICT:
            hint = "take it in beside that one: --new-ids"
            raise CommandFailed(response.json()["detail"], hint)
        raise_for_problem(response)
    made = response.json()
    print(f"{made['id']} is here: {made['message_count']} messages")


def remove(settings: Settings, given: list[str], *, sure: bool) -> None:
    """Delete sessions with all their messages; asks first."""
    with server(settings) as client:
        found = {session["id"]: session for session in (find(client, id_) for id_ in given)}
        names = [f"{short(id_)} ({plain(s['title'] or 'no title')})" for id_, s in found.items()]
        if not sure:
            if not sys.stdin.isatty():
                stay = "stays" if len(names) == 1 else "stay"
                words = f"{', '.join(names)} {stay}: nobody can be asked"
                raise CommandFailed(words, "rm --yes does not ask")
            typer.confirm(f"Delete {', '.join(names)}?", abort=True)
        for id_, name in zip(found, names, strict=True):
            call(client, "DELETE", f"/v1/sessions/{quote(id_, safe='')}", {})
            print(f"{name} is deleted")


def find(client: httpx.Client, given: str) -> dict[str, Any]:
    """A session by its id, or by a beginning or an end that no other has. Raises CommandFailed."""
    response = client.get(f"/v1/sessions/{quote(given, safe='')}")
    if response.status_code != httpx.codes.NOT_FOUND:
        raise_for_problem(response)
        exact: dict[str, Any] = response.json()
        return exact
    found = [
        session
        for archived in (False, True)
        for session in _sessions(client, archived=archived)
        if session["id"].removeprefix(MADE).startswith(given)
        or session["id"].startswith(given)
        or session["id"].endswith(given)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandFailed(f"there is no session {given}", "tabagent sessions list")
    some = ", ".join(session["id"] for session in found[:3]) + (" …" if len(found) > 3 else "")
    raise CommandFailed(f"{given} may be {len(found)} sessions: {some}", "give more of its id")


def _sessions(
    client: httpx.Client, *, search: str | None = None, archived: bool, most: int | None = None
) -> Iterator[dict[str, Any]]:
    asked: dict[str, Any] = {"archived": str(archived).lower()}
    if search is not None:
        asked["search"] = search
    while most is None or most > 0:
        asked["limit"] = PAGE if most is None else min(PAGE, most)
        page = call(client, "GET", f"/v1/sessions?{urlencode(asked)}")
        yield from page["data"]
        if page["next_cursor"] is None:
            return
        asked["cursor"] = page["next_cursor"]
        most = None if most is None else most - len(page["data"])


def _messages(
    client: httpx.Client, id_: str, limit: int, branch: str | None
) -> tuple[list[dict[str, Any]], int]:
    """(the newest in the order in which they were said, how many there are)."""
    found: list[dict[str, Any]] = []
    asked: dict[str, Any] = {} if branch is None else {"branch": branch}
    while True:
        asked["limit"] = max(1, min(PAGE, limit - len(found)))
        path = f"/v1/sessions/{quote(id_, safe='')}/history?{urlencode(asked)}"
        page = call(client, "GET", path)
        found += page["data"]
        if page["next_cursor"] is None or len(found) >= limit:
            return found[:limit][::-1], page["total"]
        asked["cursor"] = page["next_cursor"]


def _show(row: dict[str, Any]) -> None:
    notes = []
    if row["status"] != "complete":
        why = f": {row['finish_reason']}" if row["finish_reason"] else ""
        notes.append(f"{row['status']}{why}")
    if row["pinned"]:
        notes.append("pinned")
    head = f"{row['role']} ({row['name']})" if row.get("name") else row["role"]
    _say(row["role"], row["created_at"], _text(row), head, notes, row.get("reasoning_content"))
    for called in row.get("tool_calls") or ():
        function = called["function"]
        words = plain(f"  → {function['name']}({function['arguments']})")
        console.print(Text(words, style="yellow"))


def _say(
    role: str,
    at: str | None,
    said: str,
    head: str | None = None,
    notes: list[str] | None = None,
    thought: str | None = None,
) -> None:
    line = Text(plain(head or role), style=f"bold {COLOURS.get(role, 'white')}")
    if at:
        line.append(f"  {moment(at)}", style="dim not bold")
    for note in notes or ():
        line.append(f"  [{plain(note)}]", style="red not bold")
    console.print()
    console.print(line)
    if thought:
        console.print(Text(plain(thought.rstrip()), style="dim italic"))
    if said:
        console.print(Text(plain(said.rstrip("\n"))))


def _text(row: dict[str, Any]) -> str:
    content = row["content"]
    if isinstance(content, list):
        return "".join(
            str(part.get("text", "")) if part.get("type") == "text" else f"[{part.get('type')}]"
            for part in content
        )
    return str(content or "")


def plain(said: str) -> str:
    """Without what would command the terminal."""
    lines = said.replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in SHOWN_CONTROLS else " " for c in lines)


def short(id_: str) -> str:
    """The end of an id that was made; it is enough to name it by."""
    return id_[-SHORT:] if id_.startswith(MADE) and len(id_) > len(MADE) + SHORT else id_


def moment(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M}"


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
