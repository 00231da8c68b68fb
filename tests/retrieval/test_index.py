"""The index is lost, damaged, compared with the database, and tended: searches stay right."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tabagent.errors import IndexRebuilding
from tabagent.retrieval.index import Index, table_name
from tabagent.stores.vectors import Entry, Filter, IndexLost, VectorStore
from tests.live import EMBEDDER, LiveServer, eventually, fake_models
from tests.retrieval.asking import (
    COLLECTIONS,
    SOUP,
    consistent,
    ended,
    found,
    indexed,
    listed,
    make,
    many,
    problem,
    query,
    tables,
    taken,
    text,
)

COUNT = 60


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def server(place: Path) -> Iterator[LiveServer]:
    with LiveServer(place, extra=fake_models()) as live:
        taken(live, *many(COUNT))
        yield live


def all_there(server: LiveServer, count: int = COUNT, collection: str = "default") -> bool:
    """Whether a search finds everything; until then it says that it is being rebuilt."""
    reply = query(server, "number page", top_k=100, collections=[collection])
    if reply.status_code == 503:
        problem(reply, "index-rebuilding")
        assert int(reply.headers["retry-after"]) >= 1
        return False
    assert reply.status_code == 200, reply.text
    sources = [source["source"] for source in reply.json()["sources"]]
    assert len(set(sources)) == len(sources)
    return len(sources) == count


# ---- damage under a running server ----------------------------------------------------------------
def test_a_lost_index_is_rebuilt_while_searches_say_so(server: LiveServer, place: Path) -> None:
    assert all_there(server)
    shutil.rmtree(place / "index")
    eventually(lambda: all_there(server), 5)
    assert consistent(place)
    taken(server, text("soup", SOUP))
    assert all_there(server, COUNT + 1)
    assert consistent(place)


def test_documents_that_come_when_the_index_was_lost_are_found_with_the_others(
    server: LiveServer, place: Path
) -> None:
    shutil.rmtree(place / "index")
    taken(server, *many(5, begin=COUNT))
    eventually(lambda: all_there(server, COUNT + 5), 5)
    eventually(lambda: consistent(place), 5)


def test_documents_that_go_when_the_index_was_lost_stay_gone(
    server: LiveServer, place: Path
) -> None:
    id_ = listed(server)["page-7"]["id"]
    shutil.rmtree(place / "index")
    assert server.client.delete(f"/v1/rag/documents/{id_}").status_code == 200
    eventually(lambda: all_there(server, COUNT - 1), 5)
    assert consistent(place)


DAMAGE = [
    *(("data/*", how) for how in ("gone", "noise", "cut")),
    *((f"{kind}/*", how) for kind in ("_versions", "_indices/*") for how in ("gone", "noise")),
    ("_transactions/*", "gone"),
    ("_deletions/*", "gone"),
    ("_deletions/*", "cut"),
]


@pytest.mark.parametrize(("kind", "how"), DAMAGE)
def test_damage_to_its_files_is_survived_also_by_the_next_server(
    tmp_path: Path, kind: str, how: str
) -> None:
    place, chance = tmp_path, random.Random(kind + how)

    def harm() -> None:
        for file in (place / "index").glob(f"*/{kind}"):
            if how == "gone":
                file.unlink()
            elif how == "noise":
                file.write_bytes(chance.randbytes(max(file.stat().st_size, 64)))
            else:
                os.truncate(file, file.stat().st_size // 2)

    with LiveServer(place, extra=fake_models()) as server:
        taken(server, *many(12))
        server.client.delete(f"/v1/rag/documents/{listed(server)['page-3']['id']}")
        assert all_there(server, 11)
        harm()
        eventually(lambda: all_there(server, 11), 5)
        taken(server, *many(2, begin=12))
        eventually(lambda: all_there(server, 13), 5)
        for mode in ("vector", "words"):  # each looks into other files

            def right(mode: str = mode) -> bool:
                reply = query(server, "number page", top_k=100, mode=mode)
                assert reply.status_code in (200, 503), reply.text
                return reply.status_code == 200 and len(reply.json()["sources"]) == 13

            eventually(right, 5)
    harm()
    with LiveServer(place, extra=fake_models()) as server:
        eventually(lambda: all_there(server, 13), 5)
        taken(server, *many(1, begin=14))
        eventually(lambda: all_there(server, 14), 5)
        eventually(lambda: consistent(place), 5)


def test_an_index_can_be_made_anew_by_hand(server: LiveServer, place: Path) -> None:
    begun = server.client.post(f"{COLLECTIONS}/default/rebuild").json()
    state = ended(server, begun["id"])
    assert (state["state"], state["counts"]) == ("done", {"rebuilt": 1})
    assert all_there(server) and consistent(place)


def test_searches_while_it_is_made_anew_find_all_or_say_so(server: LiveServer) -> None:
    stop, seen = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            seen.append(all_there(server))

    thread = threading.Thread(target=search)
    thread.start()
    for _ in range(3):
        begun = server.client.post(f"{COLLECTIONS}/default/rebuild").json()
        assert ended(server, begun["id"])["state"] == "done"
    stop.set()
    thread.join()
    assert seen.count(True) > 0


def test_a_search_never_shows_a_part(server: LiveServer) -> None:
    for _ in range(3):
        server.client.post(f"{COLLECTIONS}/default/rebuild")
        for _ in range(10):
            reply = query(server, "number page", top_k=100)
            assert reply.status_code == 503 or len(reply.json()["sources"]) == COUNT


# ---- the next server ------------------------------------------------------------------------------
def test_what_the_index_lacks_or_has_too_much_is_put_right_with_the_start(tmp_path: Path) -> None:
    import lancedb

    place = tmp_path
    with LiveServer(place, extra=fake_models()) as server:
        taken(server, *many(20))
    table = lancedb.connect(str(place / "index")).open_table(table_name("default", EMBEDDER))
    numbers = indexed(place, "default", EMBEDDER)
    stray = table.to_arrow().slice(0, 1).to_pylist()[0] | {"number": 10**9}
    table.delete(f"number IN ({numbers[2]}, {numbers[5]})")
    table.add([stray])
    assert not consistent(place)
    with LiveServer(place, extra=fake_models()) as server:
        eventually(lambda: consistent(place), 5)
        assert all_there(server, 20)
    table = lancedb.connect(str(place / "index")).open_table(table_name("default", EMBEDDER))
    table.add(table.to_arrow().slice(0, 4))  # there twice
    with LiveServer(place, extra=fake_models()) as server:
        eventually(lambda: consistent(place), 5)
        assert all_there(server, 20)


def test_a_collection_that_is_deleted_leaves_no_table(server: LiveServer, place: Path) -> None:
    make(server, "brief")
    taken(server, *many(3), collection="brief")
    assert len(tables(place)) == 2
    server.client.delete(f"{COLLECTIONS}/brief")
    assert tables(place) == [table_name("default", EMBEDDER)]
    make(server, "brief")
    taken(server, *many(2, "other"), collection="brief")
    assert set(found(server, "number", collections=["brief"], top_k=10)) == {"other-0", "other-1"}


# ---- on its own -----------------------------------------------------------------------------------
class Shelf:
    """A record in memory."""

    def __init__(self) -> None:
        self.rows: dict[int, Entry] = {}
        self.slow = 0.0

    async def numbers(self, subject: str, model: str) -> list[int]:
        found = sorted(self.rows)
        await asyncio.sleep(self.slow)
        return found

    async def entries(self, numbers: Sequence[int], model: str) -> list[Entry]:
        await asyncio.sleep(self.slow)
        return [self.rows[n] for n in numbers if n in self.rows]

    def put(self, *numbers: int) -> list[Entry]:
        made = [entry(number) for number in numbers]
        self.rows |= {one.number: one for one in made}
        return made


def entry(number: int, width: int = 8) -> Entry:
    vector = np.random.default_rng(number).normal(size=width).astype("<f4")
    vector /= np.linalg.norm(vector)
    return Entry(
        number, vector.tobytes(), f"word{number} every", f"o{number % 7}", "text", "", [], 1.0, 1.0
    )


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def index(tmp_path: Path, shelf: Shelf) -> AsyncIterator[Index]:
    made = Index(VectorStore(str(tmp_path / "index")), shelf)
    yield made
    await made.stop()


async def everything(index: Index, most: int = 5000) -> list[int]:
    vector = np.frombuffer(entry(1).vector, "<f4")
    hits = await index.nearest("s", "m", vector, most, Filter())
    return sorted(number for number, _ in hits)


async def patiently(index: Index) -> list[int]:
    for _ in range(100):
        try:
            return await everything(index)
        except IndexRebuilding:
            await asyncio.sleep(0.02)
    raise AssertionError("it is never rebuilt")


async def test_writers_and_rebuilds_at_once_leave_every_row_once(
    index: Index, shelf: Shelf
) -> None:
    shelf.slow = 0.001

    async def write(begin: int) -> None:
        for number in range(begin, begin + 20):
            await index.change("s", "m", shelf.put(number), [])

    async def build() -> None:
        for _ in range(6):
            await asyncio.sleep(0.01)
            await index.rebuild("s", "m")

    await asyncio.gather(*(write(1000 * n) for n in range(1, 5)), build())
    assert await patiently(index) == sorted(shelf.rows)


async def test_an_empty_record_is_an_empty_answer(index: Index, shelf: Shelf) -> None:
    assert await everything(index) == []
    assert await index.saying("s", "m", "every", 5, Filter()) == []
    await index.change("s", "m", shelf.put(1), [])
    assert await everything(index) == [1]
    shelf.rows.clear()
    await index.change("s", "m", [], [1])
    assert await everything(index) == []


async def test_a_first_row_that_goes_while_the_table_is_made_does_not_empty_it(
    index: Index, shelf: Shelf
) -> None:
    shelf.put(*range(1, 50))
    shelf.slow = 0.05
    making = asyncio.create_task(index.made("s", "m"))
    await asyncio.sleep(0.02)
    del shelf.rows[1]
    await making
    assert await everything(index) == list(range(2, 50))


async def test_a_table_that_takes_long_to_make_is_not_searched_half(
    index: Index, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabagent.retrieval.index.BATCH", 10)
    monkeypatch.setattr("tabagent.retrieval.index.READY_S", 0.05)
    shelf.put(*range(1, 101))
    shelf.slow = 0.02
    refused = 0
    while True:
        try:
            numbers = await everything(index)
            break
        except IndexRebuilding:
            refused += 1
    assert numbers == list(range(1, 101))
    assert refused > 0


async def test_many_rows_get_an_index_that_finds_nearly_all_of_the_nearest(
    index: Index, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabagent.stores.vectors.EXACT_BELOW", 3000)
    shelf.put(*range(1, 4001))
    asked = np.frombuffer(entry(5000).vector, "<f4")
    await index.made("s", "m")
    near = [n for n, _ in await index.nearest("s", "m", asked, 50, Filter())]
    exact = sorted(
        shelf.rows, key=lambda n: -float(np.frombuffer(shelf.rows[n].vector, "<f4") @ asked)
    )[:50]
    assert index._store._tables[table_name("s", "m")].near == 4000
    assert len(set(near) & set(exact)) >= 45
    only = await index.nearest("s", "m", asked, 50, Filter(owners=["o3"]))
    assert len(only) == 50
    assert {shelf.rows[n].owner for n, _ in only} == {"o3"}
    await index.change("s", "m", shelf.put(9001), [near[0]])
    del shelf.rows[near[0]]
    again = [n for n, _ in await index.nearest("s", "m", asked, 50, Filter())]
    assert near[0] not in again
    (first, score), *_ = await index.saying("s", "m", "word9001", 5, Filter())
    assert first == 9001 and score > 0


async def test_a_file_in_the_place_of_the_index_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("not a folder")
    assert not await VectorStore(str(tmp_path / "index")).open("none")  # it tries for 3 s


async def test_a_store_says_what_it_is_not(tmp_path: Path) -> None:
    store = VectorStore(str(tmp_path / "index"))
    assert not await store.open("none")
    with pytest.raises(IndexLost):
        await store.add("none", [entry(1)])
    await store.drop("none")
    await store.make("one", 8)
    await store.add("one", [entry(1)])
    with pytest.raises(IndexLost):
        await store.add("one", [entry(2, width=4)])
    assert await store.numbers("one") == [1]
