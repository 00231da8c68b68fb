"""Collections as callers see them: made, filled, changed, listed, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.live import EMBEDDER, RERANKER, LiveServer, eventually, fake_models
from tests.retrieval.asking import (
    COLLECTIONS,
    DOCUMENTS,
    SOUP,
    add,
    added,
    consistent,
    found,
    indexed,
    job,
    listed,
    make,
    many,
    problem,
    query,
    rows,
    text,
)

NUMBERS = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("documents"), extra=fake_models()) as live:
        yield live


@pytest.fixture
def place(server: LiveServer) -> Iterator[str]:
    """A collection of one's own."""
    name = f"c{next(NUMBERS)}"
    make(server, name, model=EMBEDDER)
    yield name
    server.client.delete(f"{COLLECTIONS}/{name}")


def data_of(server: LiveServer) -> Path:
    return server.settings.data_dir


# ---- collections --------------------------------------------------------------------------------
def test_a_collection_that_is_not_there_is_named(server: LiveServer) -> None:
    for reply in (
        add(server, text("a", "b"), collection="nowhere"),
        query(server, "x", collections=["nowhere"]),
        server.client.get(DOCUMENTS, params={"collection": "nowhere"}),
        server.client.delete(f"{COLLECTIONS}/nowhere"),
        server.client.patch(f"{COLLECTIONS}/nowhere", json={"description": "x"}),
        server.client.post(f"{COLLECTIONS}/nowhere/rebuild"),
    ):
        assert reply.status_code == 404
        problem(reply, "collection-not-found")
    assert query(server, "x").status_code == 200  # the default one need not be there


@pytest.mark.parametrize(
    "name", ["../x", "A", "x" * 64, "a.b", "", "a/b", "-a", "a b", "ä", "a\n", "_messages"]
)
def test_a_name_that_may_not_be_is_refused(server: LiveServer, name: str) -> None:
    problem(server.client.post(COLLECTIONS, json={"name": name}), "invalid-request")
    problem(add(server, text("a", "b"), collection=name), "invalid-request")
    problem(query(server, "a", collections=[name]), "invalid-request")


@pytest.mark.parametrize("name", ["messages", "x" * 63, "0", "a_b-c", "default-1", "con", "nul"])
def test_a_name_that_may_be_works(server: LiveServer, name: str) -> None:
    make(server, name)
    try:
        added(server, text("soup", SOUP), collection=name)
        assert found(server, "soup", collections=[name]) == ["soup"]
        problem(server.client.post(COLLECTIONS, json={"name": name}), "conflict")
    finally:
        assert server.client.delete(f"{COLLECTIONS}/{name}").status_code == 200
    assert name not in [row["name"] for row in server.client.get(COLLECTIONS).json()["data"]]
    assert rows(data_of(server), "SELECT count(*) FROM chunks WHERE collection = ?", name) == [(0,)]
    assert indexed(data_of(server), name, EMBEDDER) == []


def test_a_collection_says_what_is_in_it(server: LiveServer, place: str) -> None:
    added(server, *many(3), collection=place)
    changed = server.client.patch(f"{COLLECTIONS}/{place}", json={"description": "Soups"}).json()
    assert (changed["description"], changed["documents"], changed["chunks"]) == ("Soups", 3, 3)
    assert (changed["model"], changed["next_model"], changed["job"]) == (EMBEDDER, None, None)
    row = next(r for r in server.client.get(COLLECTIONS).json()["data"] if r["name"] == place)
    assert (row["documents"], row["description"]) == (3, "Soups")
    problem(
        server.client.post(COLLECTIONS, json={"name": "other", "model": RERANKER}),
        "wrong-model-task",
    )
    problem(
        server.client.post(COLLECTIONS, json={"name": "other", "model": "no/such"}),
        "model-not-found",
    )


def test_a_collection_that_is_deleted_while_it_is_filled_is_gone(server: LiveServer) -> None:
    make(server, "brief", model=EMBEDDER)
    slow = [text(f"s{n}", f"# {n}\n\n" + "sleep a while " * 300) for n in range(30)]
    first = added(server, *slow, collection="brief", wait=False)
    eventually(lambda: job(server, first["id"])["done"] >= 1, 20)
    assert server.client.delete(f"{COLLECTIONS}/brief").status_code == 200
    for table in ("documents", "chunks", "incoming"):
        statement = f"SELECT count(*) FROM {table} WHERE collection = 'brief'"
        assert rows(data_of(server), statement) == [(0,)]
    make(server, "brief", model=EMBEDDER)
    added(server, text("soup", SOUP), collection="brief")
    assert found(server, "soup", collections=["brief"]) == ["soup"]
    assert consistent(data_of(server))
    server.client.delete(f"{COLLECTIONS}/brief")


def test_what_is_no_character_of_a_line_is_left_out_of_titles(
    server: LiveServer, place: str
) -> None:
    added(server, text("a", SOUP, title=" a\0b\n c "), collection=place)
    assert listed(server, place)["a"]["title"] == "a b c"
    done = add(server, {"source": "b", "text": "a\0b \N{GRINNING FACE}"}, collection=place)
    problem(done, "document-unreadable")


def test_pages_of_documents(server: LiveServer, place: str) -> None:
    added(server, *many(7), text("100%_off", "# Sale\n\nAll must go."), collection=place)
    seen: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = server.client.get(DOCUMENTS, params={"collection": place, "limit": 3, **more}).json()
        seen += [row["source"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        more = {"cursor": page["next_cursor"]}
    assert sorted(seen) == sorted(listed(server, place))
    for search, expected in (("%", ["100%_off"]), ("SALE", ["100%_off"]), ("' OR 1=1 --", [])):
        params = {"collection": place, "search": search}
        reply = server.client.get(DOCUMENTS, params=params).json()
        assert [row["source"] for row in reply["data"]] == expected
    nonsense = server.client.get(DOCUMENTS, params={"cursor": "x'--"})
    assert nonsense.status_code == 400
