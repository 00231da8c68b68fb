"""Sessions over HTTP: every operation and its errors, out and in again without loss."""

from __future__ import annotations

import base64
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, fake_model, fake_models

QUIET: dict[str, Any] = dict.fromkeys(
    ("memory_titles", "memory_summaries", "memory_vectors", "memory_entities"), False
)
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
NUL = "a\0b"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("sessions")
    with LiveServer(place, extra=fake_models(), **QUIET) as running:
        yield running


def create(server: LiveServer, **given: Any) -> Any:
    return ok(server.client.post("/v1/sessions", json=given))


def say(server: LiveServer, session: str, content: Any, role: str = "user", **more: Any) -> Any:
    body = {"role": role, "content": content, **more}
    return ok(server.client.post(f"/v1/sessions/{session}/messages", json=body))


def history(server: LiveServer, session: str, **asked: Any) -> Any:
    return ok(server.client.get(f"/v1/sessions/{session}/history", params=asked))


def told(server: LiveServer, session: str, **asked: Any) -> list[Any]:
    """What a branch says, the oldest first."""
    rows = history(server, session, order="oldest", limit=500, **asked)["data"]
    return [row["content"] for row in rows]


def ok(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx.Response, status: int, code: str, pointer: str = "") -> Any:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    if pointer:
        assert body["errors"][0]["pointer"] == pointer, body
    return body


# ---- making, changing, listing ------------------------------------------------------------------
def test_a_session_is_made_read_changed_and_deleted(server: LiveServer) -> None:
    given = {
        "id": "my.own-1", "title": "Soup", "model": "a/b", "system": "be brief",
        "tags": ["b", "a", "b"], "pinned": True, "metadata": {"x": [1, {"y": None}]},
    }  # fmt: skip
    made = create(server, **given)
    assert {key: made[key] for key in given} == given | {"tags": ["a", "b"]}
    assert (made["title_by"], made["archived"], made["message_count"]) == ("user", False, 0)
    assert ok(server.client.get("/v1/sessions/my.own-1")) == made
    changes: dict[str, Any] = {
        "title": None,
        "tags": ["c"],
        "archived": True,
        "metadata": {},
        "system": None,
    }
    changed = ok(server.client.patch("/v1/sessions/my.own-1", json=changes))
    assert {key: changed[key] for key in changes} == changes
    assert (changed["model"], changed["pinned"], changed["title_by"]) == ("a/b", True, None)
    refused(server.client.post("/v1/sessions", json={"id": "my.own-1"}), 409, "conflict")
    gone = ok(server.client.request("DELETE", "/v1/sessions/my.own-1"))
    assert gone == {"id": "my.own-1", "deleted": True}
    refused(server.client.get("/v1/sessions/my.own-1"), 404, "session-not-found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"title": "x"}),
        ("DELETE", "", {}),
        ("GET", "/history", None),
        ("GET", "/branches", None),
        ("GET", "/export", None),
        ("POST", "/messages", {"role": "user", "content": "x"}),
        ("PATCH", "/messages/msg_1", {"pinned": True}),
    ],
)
def test_a_session_that_is_not_there_is_not_found(
    server: LiveServer, method: str, path: str, body: Any
) -> None:
    response = server.client.request(method, f"/v1/sessions/sess_none{path}", json=body)
    refused(response, 404, "session-not-found")


def test_a_list_pages_and_is_filtered(server: LiveServer) -> None:
    ids = [create(server, title=f"List {n}", tags=["listed"])["id"] for n in range(5)]
    server.client.patch(f"/v1/sessions/{ids[0]}", json={"pinned": True})
    server.client.patch(f"/v1/sessions/{ids[1]}", json={"archived": True})
    say(server, ids[2], "Where is the Łódź harbour?")

    def listed(**asked: Any) -> list[str]:
        rows = ok(server.client.get("/v1/sessions", params={"tag": "listed", **asked}))
        return [row["id"] for row in rows["data"]]

    seen: list[str] = []
    asked: dict[str, Any] = {"limit": 1}
    while True:
        page = ok(server.client.get("/v1/sessions", params={"tag": "listed", **asked}))
        seen += [row["id"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
    assert seen == listed() == [ids[0], ids[2], ids[4], ids[3]]
    assert listed(archived="true") == [ids[1]]
    assert listed(pinned="true") == [ids[0]]
    assert listed(pinned="false") == seen[1:]
    assert listed(search="łódź HARB") == [ids[2]]
    assert listed(search="list 4") == [ids[4]]
    assert listed(search="'\"%_(*") == []


def encoded(*values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "é", "e30", encoded("a"),
        encoded(False, float("nan"), "x"), encoded(False, 1.5, NUL),
        encoded(10**30),
        encoded(False, 1.5, "\ud800"),
        encoded(False, 1.5, "a\0b"),
        encoded(False, 1e999, "a"),
        encoded(False, 2**70, "a"),
    ],
)  # fmt: skip
def test_a_cursor_of_ones_own_is_refused_or_finds_what_it_says(
    server: LiveServer, cursor: str
) -> None:
    id_ = create(server)["id"]
    for path in ("/v1/sessions", f"/v1/sessions/{id_}/history"):
        response = server.client.get(path, params={"cursor": cursor})
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            refused(response, 400, "invalid-request", "/cursor")


@pytest.mark.parametrize(
    ("method", "path", "body", "pointer"),
    [
        ("POST", "", {"colour": "red"}, "/colour"),
        ("POST", "", {"id": "a/b"}, "/id"),
        ("POST", "", {"title": "x" * 301}, "/title"),
        ("POST", "", {"title": NUL}, "/title"),
        ("POST", "", {"tags": [""]}, "/tags/0"),
        ("PATCH", "/{id}", {"pinned": None}, ""),
        ("PATCH", "/{id}", {"tags": None}, ""),
        ("PATCH", "/{id}", {"branch": None}, ""),
        ("PATCH", "/{id}/messages/msg_1", {"pinned": None}, ""),
        ("PATCH", "/{id}/messages/msg_1", {"content": "x"}, "/content"),
        ("POST", "/{id}/messages", {"role": "user"}, ""),
        ("POST", "/{id}/messages", {"role": "user", "reasoning_content": "x"}, ""),
        ("POST", "/{id}/messages", {"role": "robot", "content": "x"}, "/role"),
        ("POST", "/{id}/messages", {"role": "tool", "content": "x"}, ""),
        ("POST", "/{id}/messages", {"role": "user", "content": "x", "tool_call_id": "c"}, ""),
        ("POST", "/{id}/messages", {"role": "user", "content": "x", "tool_calls": [CALL]}, ""),
        ("POST", "/{id}/messages", {"role": "user", "content": []}, "/content"),
        ("POST", "/{id}/messages", {"role": "user", "content": [{"type": "video"}]}, "/content/0"),
        (
            "POST",
            "/{id}/messages",
            {"role": "user", "content": "x", "branch": "br", "replace_message_id": "msg"},
            "",
        ),
    ],
)
def test_what_means_nothing_is_refused(
    server: LiveServer, method: str, path: str, body: Any, pointer: str
) -> None:
    id_ = create(server)["id"]
    response = server.client.request(method, "/v1/sessions" + path.format(id=id_), json=body)
    refused(response, 400, "invalid-request", pointer)
    assert history(server, id_)["total"] == 0


# ---- messages -----------------------------------------------------------------------------------
def test_a_message_is_kept_as_it_is(server: LiveServer) -> None:
    id_ = create(server)["id"]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    given: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE], "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm",
         "model": "a/b", "usage": usage, "finish_reason": "tool_calls", "metadata": {"k": [1]}},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "id": "mine"},
    ]  # fmt: skip
    for message in given:
        say(server, id_, **message)
    rows = history(server, id_, order="oldest")["data"]
    assert [{key: row[key] for key in m} for m, row in zip(given, rows, strict=True)] == given
    assert [row["depth"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["pinned"] for row in rows] == [True, False, False, False, False]
    assert all(row["status"] == "complete" for row in rows)
    assert ok(server.client.get(f"/v1/sessions/{id_}"))["title"] == "see"
    taken = server.client.post(
        f"/v1/sessions/{id_}/messages", json={"role": "user", "content": "x", "id": "mine"}
    )
    refused(taken, 409, "conflict")
    changed = ok(
        server.client.patch(
            f"/v1/sessions/{id_}/messages/mine", json={"pinned": True, "metadata": {"a": 1}}
        )
    )
    assert (changed["pinned"], changed["metadata"]) == (True, {"a": 1})
    other = create(server)["id"]
    elsewhere = server.client.patch(f"/v1/sessions/{other}/messages/mine", json={"pinned": True})
    refused(elsewhere, 404, "not-found")


def test_an_edit_forks_and_both_branches_are_paged_from_both_ends(server: LiveServer) -> None:
    id_ = create(server)["id"]
    rows = [say(server, id_, f"m{n}", "assistant" if n % 2 else "user") for n in range(6)]
    edited = say(server, id_, "M2", replace_message_id=rows[2]["id"])
    assert edited["branch"] != rows[0]["branch"]
    assert told(server, id_) == ["m0", "m1", "M2"]
    assert told(server, id_, branch=rows[0]["branch"]) == [f"m{n}" for n in range(6)]
    for order, wanted in (("newest", ["M2", "m1", "m0"]), ("oldest", ["m0", "m1", "M2"])):
        seen: list[str] = []
        asked: dict[str, Any] = {"limit": 2, "order": order}
        while True:
            page = history(server, id_, **asked)
            assert page["total"] == 3
            seen += [row["content"] for row in page["data"]]
            if page["next_cursor"] is None:
                break
            asked["cursor"] = page["next_cursor"]
        assert seen == wanted
    branches = ok(server.client.get(f"/v1/sessions/{id_}/branches"))["data"]
    assert [(b["forked_at"], b["message_count"], b["current"]) for b in branches] == [
        (0, 6, False),
        (2, 3, True),
    ]
    ok(server.client.patch(f"/v1/sessions/{id_}", json={"branch": rows[0]["branch"]}))
    assert told(server, id_)[-1] == "m5"
    unknown = server.client.patch(f"/v1/sessions/{id_}", json={"branch": "br_none"})
    refused(unknown, 404, "session-not-found")
    asked = {"branch": "br_none"}
    refused(
        server.client.get(f"/v1/sessions/{id_}/history", params=asked), 404, "session-not-found"
    )


def test_what_was_said_is_found_by_its_words(server: LiveServer) -> None:
    id_ = create(server, title="Ships")["id"]
    message = say(server, id_, "The zeppelin lands at 北京 tonight")
    for query in ("zeppelin", "ZEPP", "北京"):
        asked = {"query": query, "mode": "words"}
        (found,) = ok(server.client.get("/v1/sessions/search", params=asked))["data"]
        assert found["message"]["id"] == message["id"]
        assert (found["session_title"], found["matched"]) == ("Ships", ["words"])
    inside = {"query": "zeppelin", "session_id": create(server)["id"], "mode": "words"}
    assert ok(server.client.get("/v1/sessions/search", params=inside))["data"] == []


def test_a_page_of_a_long_session_is_quick_from_both_ends(server: LiveServer) -> None:
    messages = [
        {"role": "assistant" if n % 2 else "user", "content": f"{n} " + "word " * 60}
        for n in range(2000)
    ]
    data = {"tabagent_session": 1, "session": {"title": "Long"}, "messages": messages}
    id_ = ok(server.client.post("/v1/sessions/import", json={"data": data}))["id"]
    for order, first in (("newest", "1999"), ("oldest", "0")):
        best = 9.0
        for _ in range(5):
            began = time.perf_counter()
            page = history(server, id_, order=order, limit=50)
            best = min(best, time.perf_counter() - began)
        assert page["data"][0]["content"].split()[0] == first
        assert (page["total"], len(page["data"])) == (2000, 50)
        assert best < 0.2, f"{best * 1000:.0f} ms"


def test_a_full_disk_saves_nothing_and_the_next_message_is_saved(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], **QUIET) as server:
        id_ = create(server)["id"]
        say(server, id_, "one")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
        try:
            body = {"role": "user", "content": "much " * 100_000}
            path = f"/v1/sessions/{id_}/messages"
            refused(server.client.post(path, json=body), 507, "insufficient-storage")
            assert told(server, id_) == ["one"]
            chat = server.chat("much " * 100_000, session_id=id_)
            refused(chat, 507, "insufficient-storage")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert told(server, id_) == ["one"]
        assert ok(server.client.get(f"/v1/sessions/{id_}"))["message_count"] == 1
        say(server, id_, "two")
        assert told(server, id_) == ["one", "two"]
