"""Documents as callers see them: taken in, changed, refused, listed, deleted."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.live import EMBEDDER, LiveServer, eventually, fake_models
from tests.retrieval.asking import (
    BREAD,
    COLLECTIONS,
    DOCUMENTS,
    JOBS,
    MOON,
    SOUP,
    add,
    added,
    consistent,
    ended,
    events,
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
from tests.worker.reading.documents import archive, docx, encrypted, p, pdf, pdf_bomb

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


def file(name: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"filename": name, "data": base64.b64encode(content).decode(), **more}


def data_of(server: LiveServer) -> Path:
    return server.settings.data_dir


# ---- versions -----------------------------------------------------------------------------------
def test_a_document_is_taken_in_found_shown_and_deleted(server: LiveServer, place: str) -> None:
    said = text("soup", SOUP, tags=["warm", "easy", "warm"], metadata={"page": 3})
    done = added(server, said, text("moon", MOON), collection=place)
    assert (done["state"], done["total"], done["done"]) == ("done", 2, 2)
    assert done["counts"] == {"added": 2}
    assert found(server, "carrots and a potato", collections=[place])[0] == "soup"
    row = listed(server, place)["soup"]
    assert (row["title"], row["kind"], row["version"], row["chunks"]) == ("Soup", "markdown", 1, 1)
    assert (row["tags"], row["metadata"]) == (["easy", "warm"], {"page": 3})
    whole = server.client.get(f"{DOCUMENTS}/{row['id']}").json()
    assert whole["text"] == SOUP
    assert whole["parts"] == [
        {"number": 0, "start": 0, "end": len(SOUP), "tokens": whole["parts"][0]["tokens"],
         "headings": ["Soup"]}
    ]  # fmt: skip
    part = server.client.get(f"{DOCUMENTS}/{row['id']}", params={"start": 2, "length": 4}).json()
    assert (part["text"], part["length"], part["parts"]) == ("Soup", len(SOUP), [])
    gone = server.client.delete(f"{DOCUMENTS}/{row['id']}")
    assert gone.json() == {"id": row["id"], "deleted": True}
    problem(server.client.get(f"{DOCUMENTS}/{row['id']}"), "document-not-found")
    problem(server.client.delete(f"{DOCUMENTS}/{row['id']}"), "document-not-found")
    assert found(server, "carrots", collections=[place]) == ["moon"]
    assert len(indexed(data_of(server), place, EMBEDDER)) == 1
    assert consistent(data_of(server))


def test_the_same_content_is_nothing_to_do(server: LiveServer, place: str) -> None:
    added(server, text("soup", SOUP, metadata={"a": 1, "b": 2}), collection=place)
    before = rows(data_of(server), "SELECT number FROM chunks WHERE collection = ?", place)
    again = added(server, text("soup", SOUP, metadata={"b": 2, "a": 1}), collection=place)
    assert (again["done"], again["counts"]) == (1, {"unchanged": 1})
    assert listed(server, place)["soup"]["version"] == 1
    after = rows(data_of(server), "SELECT number FROM chunks WHERE collection = ?", place)
    assert after == before


def test_other_content_is_a_new_version_and_nothing_of_the_old_is_left(
    server: LiveServer, place: str
) -> None:
    first = "# Long\n\n" + "\n\n".join(f"{SOUP[8:]} {n}" for n in range(100))
    added(server, text("soup", first), collection=place)
    old = listed(server, place)["soup"]
    assert old["chunks"] > 3
    done = added(server, text("soup", BREAD), collection=place)
    assert done["counts"] == {"updated": 1}
    new = listed(server, place)["soup"]
    assert (new["id"], new["version"], new["chunks"]) == (old["id"], 2, 1)
    assert new["created_at"] == old["created_at"] < new["updated_at"]
    (source,) = query(server, "carrots potato rye", collections=[place]).json()["sources"]
    assert "rye" in source["text"]
    assert len(indexed(data_of(server), place, EMBEDDER)) == 1
    assert consistent(data_of(server))


def test_a_new_version_of_a_long_text_embeds_only_what_is_new(
    server: LiveServer, place: str
) -> None:
    said = "\n\n".join(f"# Part {n}\n\n" + f"word{n} " * 200 for n in range(12))
    added(server, text("long", said), collection=place)
    statement = "SELECT c.text, v.vector FROM chunks c JOIN vectors v ON v.chunk = c.number WHERE c.collection = ?"
    before = dict(rows(data_of(server), statement, place))
    added(server, text("long", said + "\n\nMore is said here."), collection=place)
    after = dict(rows(data_of(server), statement, place))
    same = before.keys() & after.keys()
    assert len(same) >= len(before) - 1
    assert all(before[chunk] == after[chunk] for chunk in same)


def test_another_title_or_tag_is_a_new_version_too(server: LiveServer, place: str) -> None:
    added(server, text("soup", SOUP), collection=place)
    done = added(server, text("soup", SOUP, title="Broth", tags=["hot"]), collection=place)
    assert done["counts"] == {"updated": 1}
    row = listed(server, place)["soup"]
    assert (row["title"], row["tags"], row["version"]) == ("Broth", ["hot"], 2)
    assert found(server, "soup", collections=[place], filter={"tags": ["hot"]}) == ["soup"]


def test_another_name_is_another_document(server: LiveServer, place: str) -> None:
    added(server, text("soup", SOUP), collection=place)
    assert added(server, text("soup2", SOUP), collection=place)["counts"] == {"added": 1}
    assert set(listed(server, place)) == {"soup", "soup2"}


def test_the_last_of_the_same_name_in_one_request_counts(server: LiveServer, place: str) -> None:
    documents = [
        text("a", SOUP),
        text("b", MOON),
        text("a", BREAD),
        text("a", SOUP),
        text("a", BREAD),
    ]
    done = added(server, *documents, collection=place)
    assert (done["total"], done["done"]) == (5, 5)
    assert done["counts"] == {"added": 2, "replaced": 3}
    row = listed(server, place)["a"]
    assert server.client.get(f"{DOCUMENTS}/{row['id']}").json()["text"] == BREAD
    assert consistent(data_of(server))


def test_jobs_at_once_on_one_name_leave_one_whole_document(server: LiveServer, place: str) -> None:
    texts = [f"# Version {n}\n\n" + f"This is what number {n} says. " * 200 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda t: added(server, text("one", t), collection=place), texts))
    assert {job["state"] for job in done} == {"done"}
    assert sum(job["counts"].get("added", 0) for job in done) == 1
    row = listed(server, place)["one"]
    whole = server.client.get(f"{DOCUMENTS}/{row['id']}").json()
    assert whole["text"] in [t.strip() for t in texts] + texts
    chunks = rows(
        data_of(server),
        "SELECT document_id, text FROM chunks WHERE collection = ? ORDER BY ordinal",
        place,
    )
    assert len(chunks) == row["chunks"]
    assert all(id_ == row["id"] and said in whole["text"] for id_, said in chunks)
    assert consistent(data_of(server))


# ---- jobs ---------------------------------------------------------------------------------------
def test_a_job_tells_how_far_it_is(server: LiveServer, place: str) -> None:
    body = {"documents": many(120), "collection": place, "stream": True}
    with server.client.stream("POST", DOCUMENTS, json=body) as reply:
        told = [data for _, data in events(reply)]
    assert (told[0]["state"], told[0]["total"]) == ("running", 120)
    assert (told[-1]["state"], told[-1]["done"]) == ("done", 120)
    assert told[-1]["ended_at"]
    done = [state["done"] for state in told]
    assert done == sorted(done)
    assert job(server, told[0]["id"])["state"] == "done"
    assert told[0]["id"] in [j["id"] for j in server.client.get(JOBS).json()["data"]]


def test_who_does_not_wait_hears_at_once_and_can_follow(server: LiveServer, place: str) -> None:
    first = added(server, *many(100), collection=place, wait=False)
    assert (first["state"], first["total"]) == ("running", 100)
    with server.client.stream("GET", f"{JOBS}/{first['id']}?stream=true") as reply:
        told = [data for _, data in events(reply)]
    assert (told[-1]["state"], told[-1]["done"]) == ("done", 100)
    assert len(listed(server, place)) == 100


def test_a_caller_who_leaves_does_not_stop_a_job(server: LiveServer, place: str) -> None:
    body = {"documents": many(150), "collection": place, "stream": True}
    with server.client.stream("POST", DOCUMENTS, json=body) as reply:
        _, first = next(events(reply))
    assert ended(server, first["id"])["counts"] == {"added": 150}


def test_a_job_that_is_cancelled_keeps_what_is_done_and_does_no_more(
    server: LiveServer, place: str
) -> None:
    slow = [text(f"s{n}", f"# {n}\n\n" + "sleep a while " * 300) for n in range(60)]
    first = added(server, *slow, collection=place, wait=False)
    eventually(lambda: job(server, first["id"])["done"] >= 2, 20)
    stopped = server.client.post(f"{JOBS}/{first['id']}/cancel").json()
    assert stopped["state"] == "cancelled"
    state = job(server, first["id"])
    assert state["ended_at"]
    assert state["done"] == state["counts"]["added"] == len(listed(server, place)) < 60
    assert rows(data_of(server), "SELECT count(*) FROM incoming WHERE job_id = ?", first["id"]) == [
        (0,)
    ]
    assert consistent(data_of(server))
    problem(server.client.post(f"{JOBS}/{first['id']}/cancel"), "conflict")
    problem(server.client.post(f"{JOBS}/nothing/cancel"), "not-found")
    assert added(server, text("after", SOUP), collection=place)["counts"] == {"added": 1}


def test_the_servers_events_tell_of_documents_and_jobs(server: LiveServer, place: str) -> None:
    added(server, text("soup", SOUP), collection=place)
    id_ = listed(server, place)["soup"]["id"]
    server.client.delete(f"{DOCUMENTS}/{id_}")
    told = server.client.get("/v1/events", params={"from": 1, "stream": "false"}).json()["data"]
    changes = [
        (row["type"], row["data"]["state"])
        for row in told
        if row["data"].get("collection") == place
    ]
    assert changes.index(("document", "added")) < changes.index(("document", "deleted"))
    assert ("job", "done") in changes


# ---- what cannot be taken in --------------------------------------------------------------------
def bomb() -> bytes:
    return archive({"word/document.xml": b"<a>" + b"\0" * 300_000_000, "[Content_Types].xml": ""})


HOSTILE: dict[str, tuple[bytes, str]] = {
    "bomb.docx": (b"", "payload-too-large document-unreadable"),
    "bomb.pdf": (pdf_bomb(300_000_000), "payload-too-large document-unreadable"),
    "locked.pdf": (encrypted(pdf(["x"]), "secret"), "document-unreadable"),
    "cut.pdf": (pdf(["x" * 50])[:300], "document-unreadable"),
    "scripts.html": (b"<html><script>alert(1)</script>", "document-unreadable"),
    "empty.txt": (b" \n ", "document-unreadable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_document_that_cannot_be_read_is_answered_as_its_problem(
    server: LiveServer, place: str, name: str
) -> None:
    content, slugs = HOSTILE[name]
    reply = add(server, file(name, content or bomb()), collection=place)
    assert reply.json()["code"] in slugs.split(), reply.text
    assert reply.status_code in (413, 422)
    assert listed(server, place) == {}
    jobs = server.client.get(JOBS).json()["data"]
    assert jobs[0]["counts"] == {"failed": 1}


def test_what_is_no_document_is_refused_at_once(server: LiveServer, place: str) -> None:
    for content in (
        bytes(range(256)) * 40,
        b"\x89PNG\r\n\x1a\n" + bytes(3000),
        archive({"a": "b"}),
    ):
        reply = add(server, file("thing", content), collection=place)
        problem(reply, "unsupported-media-type")
    reply = add(server, {"filename": "a", "data": "no base64!"}, collection=place)
    assert problem(reply, "invalid-request")["errors"][0]["pointer"] == "/documents/0/data"


def test_failures_are_told_and_the_rest_is_there(server: LiveServer, place: str) -> None:
    done = added(
        server,
        text("soup", SOUP),
        file("locked.pdf", encrypted(pdf(["x"]), "secret")),
        file("good.pdf", pdf(["Rye bread is dark"])),
        file("bomb.docx", bomb()),
        file("good.docx", docx(p("A table of wood"))),
        collection=place,
    )
    assert (done["state"], done["total"], done["done"]) == ("done", 5, 5)
    assert done["counts"] == {"added": 3, "failed": 2}
    assert {f["source"] for f in done["failures"]} == {"locked.pdf", "bomb.docx"}
    assert all(f["problem"]["code"] and f["problem"]["detail"] for f in done["failures"])
    assert set(listed(server, place)) == {"soup", "good.pdf", "good.docx"}
    assert found(server, "dark rye", collections=[place], mode="words") == ["good.pdf"]


def test_a_page_leaves_its_scripts_behind(server: LiveServer, place: str) -> None:
    page = (
        "<html><head><title>Tea</title><script>steal()</script></head><body><main>"
        "<p onclick='x()'>Green tea is steeped <a href='/how'>for two minutes</a>.</p>"
        "<script>evil()</script></main></body></html>"
    )
    added(server, {"url": "https://Tea.example/green", "html": page}, collection=place)
    row = listed(server, place)["https://Tea.example/green"]
    whole = server.client.get(f"{DOCUMENTS}/{row['id']}").json()
    assert (whole["title"], whole["text"].strip()) == (
        "Tea",
        "Green tea is steeped [for two minutes](https://Tea.example/how).",
    )
    assert [link["url"] for link in whole["links"]] == ["https://Tea.example/how"]
    wanted = {"hosts": ["TEA.example"]}
    hit = query(server, "green tea", collections=[place], filter=wanted).json()["sources"][0]
    assert hit["url"] == "https://Tea.example/green"


def test_a_source_that_runs_when_clicked_is_no_url(server: LiveServer, place: str) -> None:
    added(server, text("javascript://x/%0aalert(1)", SOUP), collection=place)
    (hit,) = query(server, "soup", collections=[place]).json()["sources"]
    assert hit["url"] is None


@pytest.mark.parametrize(
    "document",
    [
        {"source": "a"},
        {"source": "a", "text": "x", "html": "y"},
        {"text": "x"},
        {"url": "ftp://x/y", "text": "x"},
        {"url": "https://x y", "text": "x"},
        {"source": "", "text": "x"},
        {"source": "a\0b", "text": "x"},
        {"source": "a", "text": "x", "tags": ["\x1f"]},
        {"source": "a", "text": "x", "folder_id": "dir_1"},
    ],
)
def test_nonsense_is_refused(server: LiveServer, document: dict[str, Any]) -> None:
    assert add(server, document).status_code == 400


def test_documents_may_be_larger_than_other_requests(tmp_path: Path) -> None:
    with LiveServer(
        tmp_path, extra=fake_models(), body_limit=20_000, upload_limit=90_000
    ) as server:
        said = b"A line of text that is not short. " * 2600
        assert 80_000 < len(said) < 90_000
        assert add(server, file("large.txt", said)).status_code == 200
        assert len(listed(server)) == 1
        too_large = problem(add(server, file("huge.txt", said * 2)), "payload-too-large")
        assert too_large["limit_bytes"] == 90_000 * 4 // 3 + 20_000
        other = query(server, "x" * 7000, filter={"tags": ["y" * 60] * 300})
        assert problem(other, "payload-too-large")["limit_bytes"] == 20_000


def test_a_document_over_the_limit_that_is_set_is_refused_wherever_it_comes_from(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "long.txt").write_text("long " * 1000)
    with LiveServer(tmp_path, extra=fake_models(), upload_limit=2048) as live:
        sent = add(live, file("long.txt", b"long " * 1000))
        assert problem(sent, "payload-too-large")["limit_bytes"] == 2048
        assert added(live, file("short.txt", b"short"))["counts"] == {"added": 1}
        body = {"path": str(tmp_path / "folder")}
        looked_over = live.owner.post("/v1/rag/folders", json=body)
        assert problem(looked_over, "payload-too-large")["limit_bytes"] == 2048
