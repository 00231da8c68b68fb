"""What tests of retrieval ask a server, and how they look behind it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from tabagent.retrieval.index import table_name
from tests.live import LiveServer, eventually

DOCUMENTS = "/v1/rag/documents"
COLLECTIONS = "/v1/rag/collections"
QUERY = "/v1/rag/query"
JOBS = "/v1/rag/jobs"
SOUP = "# Soup\n\nBoil two carrots and a potato for an hour."
BREAD = "# Bread\n\nKnead the dough of rye and bake it in the oven."
MOON = "# Moon\n\nThe astronauts landed in the sea of tranquility in July."


def text(source: str, said: str, **more: Any) -> dict[str, Any]:
    return {"source": source, "markdown": said, **more}


def many(count: int, words: str = "page", begin: int = 0) -> list[dict[str, Any]]:
    return [
        text(f"{words}-{n}", f"# {words} {n}\n\nThis is number {n} of {words}.")
        for n in range(begin, begin + count)
    ]


def add(server: LiveServer, *documents: dict[str, Any], **more: Any) -> httpx.Response:
    return server.client.post(DOCUMENTS, json={"documents": list(documents), **more})


def added(server: LiveServer, *documents: dict[str, Any], **more: Any) -> dict[str, Any]:
    reply = add(server, *documents, **more)
    assert reply.status_code == 200, reply.text
    job: dict[str, Any] = reply.json()
    return job


def taken(server: LiveServer, *documents: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The same, where all of them come in."""
    job = added(server, *documents, **more)
    assert job["failures"] == [], job
    return job


def query(server: LiveServer, said: str, **more: Any) -> httpx.Response:
    return server.client.post(QUERY, json={"query": said, "answer": False, **more})


def found(server: LiveServer, said: str, **more: Any) -> list[str]:
    """The names of the documents that a search finds, in its order."""
    reply = query(server, said, **more)
    assert reply.status_code == 200, reply.text
    return [source["source"] for source in reply.json()["sources"]]


def listed(server: LiveServer, collection: str = "default") -> dict[str, dict[str, Any]]:
    """All documents of a collection by their names."""
    reply = server.client.get(DOCUMENTS, params={"collection": collection, "limit": 500})
    assert reply.status_code == 200, reply.text
    rows = reply.json()["data"]
    assert len({row["source"] for row in rows}) == len(rows), "a document is there twice"
    return {row["source"]: row for row in rows}


def make(server: LiveServer, name: str, **more: Any) -> dict[str, Any]:
    reply = server.client.post(COLLECTIONS, json={"name": name, **more})
    assert reply.status_code == 200, reply.text
    made: dict[str, Any] = reply.json()
    return made


def job(server: LiveServer, id_: str) -> dict[str, Any]:
    state: dict[str, Any] = server.client.get(f"{JOBS}/{id_}").json()
    return state


def ended(server: LiveServer, id_: str, timeout: float = 20) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        state = job(server, id_)
        return state if state["ended_at"] else None

    state: dict[str, Any] = eventually(over, timeout)
    return state


def events(reply: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) of each event of a stream."""
    name = ""
    for line in reply.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
            name = ""


def problem(reply: httpx.Response, slug: str) -> dict[str, Any]:
    document: dict[str, Any] = reply.json()
    assert document.get("code") == slug, document
    return document


# ---- behind it ----------------------------------------------------------------------------------
def rows(data: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data / "tabagent.db", timeout=10)) as connection:
        return connection.execute(statement, values).fetchall()


def tables(data: Path) -> list[str]:
    return sorted(path.stem for path in (data / "index").glob("*.lance"))


def indexed(data: Path, collection: str, model: str) -> list[int]:
    """The numbers in the index of a collection."""
    name = table_name(collection, model)
    if name not in tables(data):
        return []
    import lancedb  # late: the server tells it first that it should be quiet

    try:
        table = lancedb.connect(str(data / "index")).open_table(name)
        numbers: list[int] = table.to_arrow()["number"].to_pylist()
    except (ValueError, RuntimeError):  # it is being made anew
        return [-1]
    return sorted(numbers)


def consistent(data: Path) -> bool:
    """Whether every chunk has its vector, and the index holds exactly those."""
    for collection, model in rows(data, "SELECT name, model FROM collections"):
        chunks = [
            n
            for (n,) in rows(
                data, "SELECT number FROM chunks WHERE collection = ? ORDER BY 1", collection
            )
        ]
        vectors = [
            n
            for (n,) in rows(
                data,
                "SELECT chunk FROM vectors JOIN chunks ON number = chunk"
                " WHERE collection = ? AND model = ? ORDER BY 1",
                collection,
                model,
            )
        ]
        if not chunks == vectors == indexed(data, collection, model):
            return False
    return not rows(
        data, "SELECT number FROM chunks WHERE document_id NOT IN (SELECT id FROM documents)"
    )
