"""Collections, documents, chunks and jobs in the database: replaced whole, deleted with all of it."""

from __future__ import annotations

import asyncio
from time import time

import pytest

from tabagent.errors import CollectionNotFound, Conflict, DocumentNotFound, InvalidRequest, NotFound
from tabagent.stores.collections import CollectionStore
from tabagent.stores.database import Database
from tabagent.stores.documents import DocumentStore
from tabagent.stores.ids import new_id
from tabagent.stores.jobs import JobStore
from tabagent.stores.papers import Chunk, Collection, Document, Folder, Fresh, Incoming, Job

pytestmark = pytest.mark.timeout(120)
ONE, TWO = "model/one", "model/two"


@pytest.fixture
async def collections(database: Database) -> CollectionStore:
    store = CollectionStore(database)
    for name in ("c", "d"):
        await store.create(Collection(name, None, ONE, None, 256, 32, time()))
    return store


@pytest.fixture
def documents(database: Database, collections: CollectionStore) -> DocumentStore:
    return DocumentStore(database)


@pytest.fixture
def jobs(database: Database, collections: CollectionStore) -> JobStore:
    return JobStore(database, "here")


def fresh(
    source: str, *texts: str, collection: str = "c", of: Document | None = None, incoming: int = 0,
    models: tuple[str, ...] = (ONE,), folder: str | None = None,
) -> Fresh:  # fmt: skip
    """A document whose chunks are these texts; a new version of another one when given."""
    now = time()
    document = Document(
        id=of.id if of else new_id("doc"), collection=collection, source=source, folder_id=folder,
        title=f"The {source}", kind="text", hash=str(hash(texts)), stat="1:1",
        version=of.version + 1 if of else 1, size_bytes=9, tags=["ä"], metadata={"a": [1, None]},
        chunk_count=len(texts), created_at=of.created_at if of else now, updated_at=now,
        text="\n".join(texts), links=[["u", "t"]], pages=[0],
    )  # fmt: skip
    chunks = [
        Chunk(document.id, collection, n, n, n + 1, 1, ["A"], said) for n, said in enumerate(texts)
    ]
    vectors = {model: [f"{model}{said}".encode() for said in texts] for model in models}
    return Fresh(document, chunks, vectors, incoming, of is None)


async def begun(jobs: JobStore, *incoming: Incoming, collection: str = "c") -> Job:
    job = Job.new("documents", collection, jobs.writer, len(incoming))
    for one in incoming:
        one.job_id = job.id
    await jobs.create(job, incoming)
    return job


async def put(documents: DocumentStore, jobs: JobStore, *several: Fresh) -> list[int]:
    job = await begun(jobs, collection=several[0].document.collection)
    return await documents.replace(several, job)


# ---- documents ----------------------------------------------------------------------------------
async def test_a_document_is_kept_as_it_is(documents: DocumentStore, jobs: JobStore) -> None:
    one = fresh("s", "a", "b \N{GRINNING FACE} '; --", "c")
    assert await put(documents, jobs, one) == []
    kept = await documents.get(one.document.id)
    assert kept == one.document
    short = await documents.by_source("c", "s")
    assert short is not None
    assert (short.id, short.text, short.links) == (kept.id, "", [])
    assert await documents.find(kept.id) == short
    assert await documents.by_source("d", "s") is None
    assert await documents.chunks(kept.id) == one.chunks
    numbers = [chunk.number for chunk in one.chunks]
    assert numbers == sorted(set(numbers))
    passages = await documents.passages([*numbers, 10**6])
    assert {n: p.chunk.text for n, p in passages.items()} == dict(
        zip(numbers, ["a", "b \N{GRINNING FACE} '; --", "c"], strict=True)
    )
    assert passages[numbers[0]].document == short
    assert await documents.vectors(numbers, ONE) == dict(
        zip(numbers, one.vectors[ONE], strict=True)
    )
    assert await documents.vectors(numbers, TWO) == {}
    with pytest.raises(DocumentNotFound):
        await documents.get("none")


async def test_a_new_version_takes_the_place_of_all_of_the_old(
    documents: DocumentStore, jobs: JobStore
) -> None:
    one = fresh("s", "a", "b", "c")
    await put(documents, jobs, one)
    old = [chunk.number for chunk in one.chunks]
    two = fresh("s", "d", of=one.document)
    assert sorted(await put(documents, jobs, two)) == old
    kept = await documents.get(one.document.id)
    assert (kept.version, kept.text) == (2, "d")
    assert [c.text for c in await documents.chunks(kept.id)] == ["d"]
    assert two.chunks[0].number > max(old), "numbers are not given twice"
    assert await documents.vectors(old, ONE) == {}
    assert await documents.numbers("c", ONE) == [two.chunks[0].number]


async def test_a_write_that_fails_changes_nothing_not_even_the_count(
    documents: DocumentStore, jobs: JobStore
) -> None:
    one = fresh("s", "a")
    await put(documents, jobs, one)
    job = await begun(jobs, Incoming("", "c", "s"), Incoming("", "c", "t"))
    rows = await jobs.waiting(job.id, 0, 10)
    good = fresh("s", "new", of=one.document, incoming=rows[0].number)
    bad = fresh("t", "x", incoming=rows[1].number, folder="dir_that_is_not_there")
    with pytest.raises(Exception, match="database"):
        await documents.replace([good, bad], job)
    assert job.counts == {} or job.done == 0
    assert (await documents.get(one.document.id)).text == "a"
    assert [c.text for c in await documents.chunks(one.document.id)] == ["a"]
    assert len(await jobs.waiting(job.id, 0, 10)) == 2
    await documents.replace([good], job)
    assert job.counts["updated"] == 1
    assert [row.source for row in await jobs.waiting(job.id, 0, 10)] == ["t"]


async def test_writers_at_once_each_leave_a_whole_document(
    documents: DocumentStore, jobs: JobStore
) -> None:
    several = [fresh(f"s{n}", *(f"{n}.{m}" for m in range(20))) for n in range(12)]
    await asyncio.gather(*(put(documents, jobs, one) for one in several))
    for one in several:
        assert await documents.chunks(one.document.id) == one.chunks
    assert len(await documents.numbers("c", ONE)) == 240


async def test_what_is_deleted_is_gone_with_all_that_was_made_of_it(
    documents: DocumentStore, jobs: JobStore, collections: CollectionStore
) -> None:
    several = [fresh(f"s{n}", "a", "b") for n in range(3)]
    await put(documents, jobs, *several)
    ids = [one.document.id for one in several]
    there, gone = await documents.delete([*ids[:2], "none"])
    assert {document.id for document in there} == set(ids[:2])
    assert sorted(gone) == sorted(c.number for one in several[:2] for c in one.chunks)
    assert await documents.vectors(gone, ONE) == {}
    assert await documents.passages(gone) == {}
    assert await documents.delete(ids[:2]) == ([], [])
    assert await collections.counts() == {"c": (1, 2)}
    many = [fresh(f"m{n}", "x") for n in range(1200)]
    await put(documents, jobs, *many)
    there, gone = await documents.delete([one.document.id for one in many])
    assert (len(there), len(gone)) == (1200, 1200)


async def test_pages_have_every_document_once(documents: DocumentStore, jobs: JobStore) -> None:
    several = [fresh(f"s{n}", "a") for n in range(7)]
    for one in several[2:5]:
        one.document.updated_at = several[0].document.updated_at  # in the same moment
    await put(documents, jobs, *several)
    await put(documents, jobs, fresh("other", "a", collection="d"))
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = await documents.page("c", None, cursor, 2)
        seen += [document.source for document in page]
        if cursor is None:
            break
    assert sorted(seen) == [f"s{n}" for n in range(7)]
    everywhere, _ = await documents.page(None, None, None, 50)
    assert len(everywhere) == 8
    for search, count in (("THE S1", 1), ("%", 0), ("_", 0), ("\\", 0), ("' OR 1=1 --", 0)):
        assert len((await documents.page(None, search, None, 50))[0]) == count
    with pytest.raises(InvalidRequest):
        await documents.page(None, None, "nonsense", 5)


# ---- models -------------------------------------------------------------------------------------
async def test_a_model_takes_over_with_its_vectors_alone(
    documents: DocumentStore, jobs: JobStore, collections: CollectionStore
) -> None:
    one, other = fresh("s", "a", "b", "c"), fresh("t", "x", collection="d")
    await put(documents, jobs, one)
    await put(documents, jobs, other)
    await collections.update("c", {"next_model": TWO})
    numbers = [chunk.number for chunk in one.chunks]
    assert await documents.without_vectors("c", TWO, 0, 2) == numbers[:2]
    await documents.save_vectors(TWO, {numbers[0]: b"v", 10**6: b"of nothing"})
    await documents.save_vectors(TWO, dict.fromkeys(numbers[:2], b"w"))  # again is no harm
    assert await documents.vectors(numbers, TWO) == dict.fromkeys(numbers[:2], b"w")
    assert await documents.without_vectors("c", TWO, 0, 9) == numbers[2:]
    await collections.switch("c", TWO)
    found = await collections.get("c")
    assert (found.model, found.next_model, found.models) == (TWO, None, [TWO])
    assert await documents.numbers("c", ONE) == []
    assert await documents.numbers("c", TWO) == numbers[:2]
    assert await documents.numbers("d", ONE) == [other.chunks[0].number]


async def test_a_next_model_is_given_up_only_while_it_is_the_next(
    documents: DocumentStore, jobs: JobStore, collections: CollectionStore
) -> None:
    one = fresh("s", "a", models=(ONE, TWO))
    await put(documents, jobs, one)
    await collections.update("c", {"next_model": TWO})
    assert not await collections.abandon("c", "model/three")
    assert await collections.abandon("c", TWO)
    assert (await collections.get("c")).models == [ONE]
    assert await documents.numbers("c", TWO) == []
    await collections.update("c", {"next_model": TWO})
    await documents.save_vectors(TWO, {one.chunks[0].number: b"v"})
    await collections.switch("c", TWO)
    assert not await collections.abandon("c", TWO), "its vectors are all there are"
    assert await documents.numbers("c", TWO) == [one.chunks[0].number]


# ---- collections and folders ----------------------------------------------------------------------
async def test_collections(
    database: Database, documents: DocumentStore, jobs: JobStore, collections: CollectionStore
) -> None:
    with pytest.raises(Conflict):
        await collections.create(Collection("c", None, ONE, None, 1, 1, time()))
    assert [c.name for c in await collections.all()] == ["c", "d"]
    assert set(await collections.named(["c", "x"])) == {"c"}
    assert (await collections.update("c", {"description": "ä"})).description == "ä"
    await put(documents, jobs, fresh("s", "a"))
    await begun(jobs, Incoming("", "c", "t", data=b"x"))
    await collections.delete("c")
    assert await collections.find("c") is None
    assert await collections.counts() == {}
    assert await documents.numbers("c", ONE) == []
    assert await jobs.unfinished() == []
    for wrong in (collections.delete("c"), collections.get("c")):
        with pytest.raises(CollectionNotFound):
            await wrong
    # As many at once as like; one of them makes it.
    made = await asyncio.gather(
        *(collections.create(Collection("new", None, ONE, None, 1, 1, time())) for _ in range(5)),
        return_exceptions=True,
    )
    assert made.count(None) == 1


async def test_a_folder_is_one_for_its_collection_and_goes_with_its_documents(
    documents: DocumentStore, jobs: JobStore, collections: CollectionStore
) -> None:
    first = await collections.put_folder(Folder("f1", "c", "/a", ["*.md"], True, 5, None, time()))
    await collections.scanned("f1")
    again = await collections.put_folder(Folder("f2", "c", "/a", [], False, 9, None, time()))
    assert (again.id, again.every_s, again.watch, again.patterns) == ("f1", 9, False, [])
    assert again.scanned_at is not None and again.created_at == first.created_at
    await collections.put_folder(Folder("f3", "d", "/a", [], False, 9, None, time()))
    one = fresh("file:///a/x", "a", folder="f1")
    await put(documents, jobs, one)
    assert await collections.stats("f1") == {"file:///a/x": (one.document.id, "1:1")}
    await documents.touch(one.document.id, "2:2")
    assert (await collections.stats("f1"))["file:///a/x"][1] == "2:2"
    assert await collections.forget_folder("f1") == [one.chunks[0].number]
    assert await documents.find(one.document.id) is None
    assert [folder.id for folder in await collections.folders()] == ["f3"]
    with pytest.raises(NotFound):
        await collections.folder("f1")


# ---- jobs ---------------------------------------------------------------------------------------
async def test_a_job_and_what_it_has_still_to_read(jobs: JobStore, database: Database) -> None:
    several = [
        Incoming("", "c", f"s{n}", kind="text", title="T", tags=["t"], metadata={"n": n},
                 data=b"\x00\xff" * n)
        for n in range(5)
    ]  # fmt: skip
    job = await begun(jobs, *several)
    assert await jobs.get(job.id) == job
    waiting = await jobs.waiting(job.id, 0, 3)
    assert [row.source for row in waiting] == ["s0", "s1", "s2"]
    assert waiting[1].data is None
    assert (waiting[1].title, waiting[1].tags, waiting[1].metadata) == ("T", ["t"], {"n": 1})
    assert await jobs.data(waiting[2].number) == b"\x00\xff" * 2
    rest = await jobs.waiting(job.id, waiting[-1].number, 9)
    assert [row.source for row in rest] == ["s3", "s4"]
    await jobs.passed(job, waiting[0].number, "unchanged")
    job.fail("s1", {"code": "x", "detail": "y"})
    await jobs.passed(job, waiting[1].number, "failed")
    kept = await jobs.get(job.id)
    assert (kept.counts, kept.done, kept.failures) == (
        {"unchanged": 1, "failed": 1},
        2,
        [{"source": "s1", "problem": {"code": "x", "detail": "y"}}],
    )
    assert await jobs.waits(job.id) == 3
    assert [one.id for one in await jobs.unfinished()] == [job.id]
    assert await JobStore(database, "elsewhere").unfinished() == []
    job.state = "done"
    await jobs.end(job)
    assert await jobs.waits(job.id) == 0
    assert await jobs.unfinished() == []
    assert (await jobs.get(job.id)).ended_at is not None
    with pytest.raises(NotFound):
        await jobs.get("none")


async def test_old_jobs_are_forgotten_and_running_ones_are_not(
    jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabagent.stores.jobs.KEPT", 3)
    running = await begun(jobs, Incoming("", "c", "s"))
    for _ in range(6):
        job = await begun(jobs)
        job.state = "done"
        await jobs.end(job)
    last = await begun(jobs)
    page, cursor = await jobs.page(None, 50)
    assert cursor is None
    ids = [job.id for job in page]
    assert running.id in ids and last.id in ids
    assert len(ids) == 2 + 3
    first, cursor = await jobs.page(None, 2)
    second, _ = await jobs.page(cursor, 50)
    assert [job.id for job in (*first, *second)] == ids
