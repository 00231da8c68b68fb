"""`tabagent rag`: documents taken in, searched, and asked."""

from __future__ import annotations

import base64
import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from tabagent.commands.client import call, raise_for_problem, server
from tabagent.commands.failure import FAILED, NO_SERVER, USAGE, CommandFailed
from tabagent.commands.sessions import moment, plain
from tabagent.config import Settings

INTERRUPTED: Final = 130  # as shells say of Ctrl-C
EXCERPT: Final = 320  # characters of a passage
LEAD: Final = 60  # of them before what was looked for
NAMED: Final = 32  # characters of a place, beside the bar
TOLD: Final = 20  # failures that are listed
OUTCOMES: Final = ("added", "updated", "unchanged", "replaced", "skipped", "removed", "failed")
FETCH_S: Final = 30.0
console = Console()


# ---- taking in ----------------------------------------------------------------------------------
def add(
    settings: Settings,
    places: Sequence[str],
    collection: str,
    *,
    title: str | None,
    source: str | None,
    tags: Sequence[str],
    watch: bool,
) -> None:
    """Files, folders, pages and stdin, each as a job whose progress is shown."""
    if (title or source) and len(places) > 1:
        raise CommandFailed("--title and --source go with one document", code=USAGE)
    failed: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    with server(settings) as client:
        for place in places:
            try:
                job = _added(
                    client,
                    place,
                    collection,
                    title,
                    source,
                    tags,
                    watch=watch,
                    most=settings.upload_limit,
                )
            except CommandFailed as error:
                if error.code != FAILED:
                    raise
                # The others may be better.
                problem = {"detail": str(error)}
                job = {
                    "failures": [{"source": place, "problem": problem}],
                    "counts": {"failed": 1},
                }
            failed += job["failures"]
            for name, number in job["counts"].items():
                counts[name] = counts.get(name, 0) + number
    said = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts.get(name))
    print(f"{collection}: {said or 'nothing to do'}")
    if failed:
        for failure in failed[:TOLD]:
            why = failure["problem"]["detail"]
            typer.echo(f"  {plain(failure['source'])}: {why}", err=True)
        raise CommandFailed(f"{counts.get('failed', len(failed))} could not be taken in")


def _added(
    client: httpx.Client,
    place: str,
    collection: str,
    title: str | None,
    source: str | None,
    tags: Sequence[str],
    *,
    watch: bool,
    most: int,
) -> dict[str, Any]:
    """The job of one place at its end. Raises CommandFailed."""
    if place != "-" and "://" not in place and Path(place).is_dir():
        path = str(Path(place).resolve())
        body = {"path": path, "collection": collection, "watch": watch}
        return _follow(client, "/v1/rag/folders", body, place)
    if watch:
        raise CommandFailed(f"{place} is no folder: only folders are watched", code=USAGE)
    document = _document(place, title, source, most) | {"tags": list(tags)}
    body = {"collection": collection, "documents": [document]}
    return _follow(client, "/v1/rag/documents", body, place)


def _document(place: str, title: str | None, source: str | None, most: int) -> dict[str, Any]:
    """What is sent to the server. Raises CommandFailed for what cannot be read."""
    named = {"title": title} if title else {}
    if place == "-":
        return {"source": source or "stdin", "text": sys.stdin.read(), **named}
    if "://" in place:
        return _fetched(place, source, most) | named
    path = Path(place)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{place} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise CommandFailed(f"{place} is over {most:,} bytes")
    return {
        "source": source or path.resolve().as_uri(),
        "filename": path.name,
        "data": base64.b64encode(data).decode(),
        **named,
    }


def _fetched(url: str, source: str | None, most: int) -> dict[str, Any]:
    """A page or file from the web. The server fetches nothing: this is the user's own wish."""
    if not url.startswith(("http://", "https://")):
        raise CommandFailed(f"{url} is neither an http nor an https address", code=USAGE)
    data = bytearray()
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=FETCH_S) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                data += part
                if len(data) > most:
                    raise CommandFailed(f"{url} is over {most:,} bytes")
    except httpx.HTTPStatusError as error:
        raise CommandFailed(f"{url} answered HTTP {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise CommandFailed(f"{url} cannot be fetched: {type(error).__name__}") from error
    return {
        "url": source or url,
        "filename": url.partition("?")[0].rstrip("/").rpartition("/")[2] or "page",
        "content_type": response.headers.get("content-type", ""),
        "data": base64.b64encode(bytes(data)).decode(),
    }


def _follow(client: httpx.Client, path: str, body: dict[str, Any], place: str) -> dict[str, Any]:
    """The job at its end."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    job: dict[str, Any] = {}
    if sys.stdin.isatty():  # Ctrl-C is ours also where whoever started us ignored it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with bar:
            named = plain(place)
            named = named if len(named) <= NAMED else "…" + named[1 - NAMED :]
            task = bar.add_task(named, total=None)
            for _, job in _events(client, path, body | {"stream": True}):
                bar.update(task, total=job["total"] or None, completed=job["done"])
    except KeyboardInterrupt:
        if job.get("state") == "running":  # it is the server's: it would go on without us
            call(client, "POST", f"/v1/rag/jobs/{job['id']}/cancel", {})
        raise CommandFailed("stopped; what was taken in stays", code=INTERRUPTED) from None
    if job.get("state") not in ("done", "running"):
        raise CommandFailed(f"{place}: the job is {job.get('state', 'unknown')}")
    return job


def _events(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) of each event. Raises CommandFailed for a problem."""
    name = ""
    try:
        with client.stream("POST", path, json=body) as response:
            raise_for_problem(response)
            for line in response.iter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
                    if name == "error":
                        raise CommandFailed(data["error"]["message"])
                    yield name, data
    except httpx.HTTPError as error:
        raise CommandFailed(
            "the server went away", "start one: tabagent serve", NO_SERVER
        ) from error


# ---- asking -------------------------------------------------------------------------------------
def search(
    settings: Settings, query: str, collections: Sequence[str], top_k: int, mode: str
) -> None:
    """Passages, the best first."""
    body = {
        "query": query, "collections": list(collections), "top_k": top_k, "mode": mode,
        "answer": False,
    }  # fmt: skip
    with server(settings) as client:
        found = call(client, "POST", "/v1/rag/query", body)["sources"]
    if not found:
        raise CommandFailed("nothing was found", "list what there is: tabagent rag list")
    for source in found:
        _show(source, query)


def ask(
    settings: Settings,
    question: str,
    collections: Sequence[str],
    top_k: int,
    *,
    model: str | None,
    session: str | None,
    min_score: float | None,
) -> None:
    """An answer as it grows, then the passages that it cites."""
    body: dict[str, Any] = {
        "query": question, "collections": list(collections), "top_k": top_k, "stream": True,
        "model": model, "session_id": session, "min_score": min_score,
        "rewrite": session is not None,
    }  # fmt: skip
    done: dict[str, Any] = {}
    with server(settings) as client:
        for name, data in _events(client, "/v1/rag/query", body):
            if name == "delta":
                console.print(Text(plain(data["text"])), end="")
            elif name == "done":
                done = data
    print()
    if not done.get("found"):
        raise CommandFailed("it is not in the sources")
    cited = {c["number"] for c in done["citations"] if c["valid"]}
    shown = [s for s in done["sources"] if s["number"] in cited]
    if not shown:
        console.print("\n[dim]It cites no source. These were given to it:[/dim]")
    for source in shown or done["sources"]:
        _show(source, question)
    if wrong := sorted({c["number"] for c in done["citations"] if not c["valid"]}):
        console.print(f"[yellow]It cites what there is not: {wrong}[/yellow]")


def _show(source: dict[str, Any], query: str) -> None:
    """A passage: where it is from, which can be clicked, and what it says."""
    link = source["url"] or ""
    head = Text()
    head.append(f"[{source['number']}] ", "bold")
    head.append(plain(source["title"] or source["source"]), f"bold link {link}" if link else "bold")
    if places := [plain(h) for h in source["headings"] if h != source["title"]]:
        head.append("  " + " > ".join(places), "dim")
    if source["similarity"] is not None:
        head.append(f"  {source['similarity']:.2f}", "cyan")
    console.print(head)
    excerpt = " ".join(plain(source["text"]).split())
    words = [re.escape(word) for word in re.findall(r"\w{3,}", query)]
    wanted = re.compile(rf"(?i)\b(?:{'|'.join(words)})\w*" if words else r"(?!)")
    body = Text(_part(excerpt, [found.start() for found in wanted.finditer(excerpt)]))
    body.highlight_regex(wanted, "bold yellow")
    console.print(body)
    console.print(Text(plain(source["source"]), f"dim link {link}" if link else "dim"))
    console.print()


def _part(text: str, places: Sequence[int]) -> str:
    """So much of a text as is shown: where most of what was looked for is."""
    most = max(
        ((sum(at <= place < at + EXCERPT - LEAD for place in places), -at) for at in places),
        default=(0, 0),
    )
    start = max(-most[1] - LEAD, 0)
    if start:
        start = text.find(" ", start) + 1  # whole words
    part = text[start : start + EXCERPT]
    return ("…" if start else "") + part + ("…" if start + EXCERPT < len(text) else "")


# ---- what there is ------------------------------------------------------------------------------
def show_list(settings: Settings, collection: str | None, text: str | None, limit: int) -> None:
    """A line for each document, the last changed first."""
    given = {"collection": collection, "search": text, "limit": min(limit, 500)}
    asked = urlencode({name: value for name, value in given.items() if value is not None})
    with server(settings) as client:
        page = call(client, "GET", f"/v1/rag/documents?{asked}")
    if not page["data"]:
        print("There are none.")
        return
    table = Table(
        Column("id", no_wrap=True), Column("title", overflow="fold", ratio=1), "kind", "chunks",
        Column("changed", no_wrap=True), Column("collection", no_wrap=True),
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in page["data"]:
        link = row["source"] if "://" in row["source"] else ""
        table.add_row(
            row["id"][-8:],
            Text(plain(row["title"]), f"link {link}" if link else ""),
            row["kind"],
            str(row["chunks"]),
            moment(row["updated_at"]),
            row["collection"],
        )
    console.print(table)
    if page["next_cursor"]:
        console.print(f"[dim]the first {len(page['data'])}; --limit shows more[/dim]")


def show_collections(settings: Settings) -> None:
    with server(settings) as client:
        rows = call(client, "GET", "/v1/rag/collections")["data"]
    if not rows:
        print("There are none: tabagent rag add makes one.")
        return
    table = Table("name", "documents", "chunks", "model", box=None, pad_edge=False)
    for row in rows:
        model = row["model"] + (f" -> {row['next_model']}" if row["next_model"] else "")
        table.add_row(row["name"], str(row["documents"]), str(row["chunks"]), model)
    console.print(table)


def remove(settings: Settings, ids: Sequence[str], *, sure: bool) -> None:
    """Delete documents, by their ids or ends of them; asks first."""
    with server(settings) as client:
        found = [_found(client, given) for given in ids]
        if not sure:
            if not sys.stdin.isatty():
                raise CommandFailed("they stay: nobody can be asked", "rag rm --yes does not ask")
            names = ", ".join(plain(row["title"]) for row in found)
            typer.confirm(f"Delete {names}?", abort=True)
        for row in found:
            call(client, "DELETE", f"/v1/rag/documents/{quote(row['id'], safe='')}")
            print(f"{plain(row['title'])} is deleted")


def _found(client: httpx.Client, given: str) -> dict[str, Any]:
    matching = [row for row in _all(client) if row["id"].endswith(given) or row["source"] == given]
    if len(matching) != 1:
        many = f"{len(matching)} documents end so" if matching else "there is no such document"
        raise CommandFailed(f"{given}: {many}", "list them: tabagent rag list")
    return matching[0]


def _all(client: httpx.Client) -> Iterator[dict[str, Any]]:
    """Every document, page by page."""
    cursor = ""
    while True:
        page = call(client, "GET", f"/v1/rag/documents?limit=500{cursor}")
        yield from page["data"]
        if not page["next_cursor"]:
            return
        cursor = "&" + urlencode({"cursor": page["next_cursor"]})
