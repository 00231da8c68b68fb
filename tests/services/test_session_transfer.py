"""Sessions out as JSON and Markdown and in again: without loss, and nothing that is damaged."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live import LiveServer, fake_models
from tests.services.test_sessions import (
    CALL,
    IMAGE,
    NUL,
    QUIET,
    create,
    history,
    ok,
    refused,
    say,
    told,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("sessions")
    with LiveServer(place, extra=fake_models(), **QUIET) as running:
        yield running


# ---- out and in ---------------------------------------------------------------------------------
ODD = [
    "", "\n", "a\n", "\n\na\n\n", "<!-- a --> b", "-->", "<!--", "--", "---\n## User\n\nx",
    "# heading\n<!-- tabagent-session 00000000 {} -->\n", "a\r\nb\r\n", "\r", "🎉 e\u0301 \u2028 \u0085",
    NUL, "```\n<!-- x -->\n```", " trailing ", "\\u002d\\n", '"}{', "\ufeffbom",
]  # fmt: skip


def odd_session(server: LiveServer) -> str:
    id_ = create(
        server,
        title="A -- title --> <!-- 🎉\r\nb",
        tags=["x", "--"],
        system="-->\r\n",
        metadata={"-->": ["<!--", 1.5, None, {"🎉": True}]},
    )["id"]
    rows = [say(server, id_, text) for text in ODD]
    parts = [{"type": "text", "text": "see --> "}, IMAGE]
    say(server, id_, parts, replace_message_id=rows[3]["id"], metadata={"k": "-->"})
    say(server, id_, None, "assistant", tool_calls=[CALL], reasoning_content="hm -->", model="a/b")
    say(server, id_, "42", "tool", tool_call_id="c1", pinned=True)
    say(server, id_, "again", replace_message_id=rows[0]["id"])
    return str(id_)


def everything(server: LiveServer, id_: str) -> Any:
    branches = ok(server.client.get(f"/v1/sessions/{id_}/branches"))["data"]
    return (
        ok(server.client.get(f"/v1/sessions/{id_}")),
        branches,
        [history(server, id_, order="oldest", limit=500, branch=b["id"]) for b in branches],
        ok(server.client.get(f"/v1/sessions/{id_}/export"))["data"],
    )


@pytest.mark.parametrize("form", ["json", "markdown"])
def test_out_deleted_and_in_again_is_the_same(server: LiveServer, form: str) -> None:
    id_ = odd_session(server)
    before = everything(server, id_)
    out = ok(server.client.get(f"/v1/sessions/{id_}/export", params={"format": form}))
    given = {key: out[key] for key in ("data", "text") if key in out}
    assert len(given) == 1
    if form == "markdown":  # no comment ends before its end, for whoever else reads it
        bearers = [line for line in out["text"].split("\n") if out["text"][22:30] in line]
        assert len(bearers) > len(ODD)
        assert all(line.count("--") == 2 for line in bearers)
    refused(server.client.post("/v1/sessions/import", json=given), 409, "conflict")
    ok(server.client.request("DELETE", f"/v1/sessions/{id_}"))
    ok(server.client.post("/v1/sessions/import", json=given))
    assert everything(server, id_) == before
    beside = ok(server.client.post("/v1/sessions/import", json=given | {"new_ids": True}))
    assert beside["id"] != id_
    assert told(server, beside["id"]) == told(server, id_)
    assert everything(server, id_) == before
    # One that shares no session and yet a branch with it.
    if form == "json":
        out["data"]["session"]["id"] = "another"
        refused(server.client.post("/v1/sessions/import", json=given), 409, "conflict")


MUTATIONS: list[Callable[[random.Random, Any], Any]] = [
    lambda dice, old: None,
    lambda dice, old: dice.choice([0, -1, 1.5, 10**30, 1e300, True, "", "x", NUL, [], {}, [{}]]),
    lambda dice, old: [old, old],
    lambda dice, old: {"x": old},
    lambda dice, old: old * 2 if isinstance(old, str | list) else "x" * 200,
    lambda dice, old: [*old[1:], *old[:1]] if isinstance(old, list) else old,
]


def mutated(dice: random.Random, whole: Any) -> Any:
    """The same with one thing in it changed, taken out, or put in."""
    whole = copy.deepcopy(whole)
    places: list[tuple[Any, Any]] = []

    def walk(here: Any) -> None:
        for key in here if isinstance(here, dict) else range(len(here)):
            places.append((here, key))
            if isinstance(here[key], dict | list):
                walk(here[key])

    walk(whole)
    inside, key = dice.choice(places)
    match dice.randrange(8):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside["new"] = 1
        case _:
            inside[key] = dice.choice(MUTATIONS)(dice, inside[key])
    return whole


def test_damaged_sessions_are_refused_or_work(server: LiveServer) -> None:
    dice = random.Random(7)
    id_ = odd_session(server)
    whole = ok(server.client.get(f"/v1/sessions/{id_}/export"))["data"]
    asked = {"format": "markdown"}
    text = ok(server.client.get(f"/v1/sessions/{id_}/export", params=asked))["text"]
    taken = 0
    for _ in range(400):
        if dice.random() < 0.6:
            given = {"data": mutated(dice, whole), "new_ids": True}
        else:
            at = dice.randrange(len(text))
            cut = at + dice.choice([1, 3, 40])
            put = dice.choice(["", "}", '"', "\n", "<!-- ", "[" * 2000, "\\ud800", "NaN"])
            given = {"text": text[:at] + put + text[cut:], "new_ids": True}
        response = server.client.post("/v1/sessions/import", json=given)
        assert response.status_code in (200, 400, 409), (given, response.text)
        if response.status_code != 200:
            pointers = [entry["pointer"] for entry in response.json().get("errors", ())]
            assert response.status_code == 409 or pointers
            assert all(p.startswith(("/data", "/text")) for p in pointers), pointers
            continue
        taken += 1
        made = response.json()["id"]
        everything(server, made)
        assert server.chat("1", session_id=made).status_code in (200, 400, 404)
        ok(server.client.request("DELETE", f"/v1/sessions/{made}"))
    ok(server.client.get("/v1/sessions"))
    assert 40 < taken < 360


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"tabagent_session": 2}, "/data"),
        ({"colour": 1}, "/data/colour"),
        ({"session": {"created_at": 1e20}}, "/data/session/created_at"),
        ({"session": {"id": "a/b"}}, "/data/session/id"),
        ({"session": {"kind": "responses"}}, "/data/session/kind"),
        ({"session": {"title_by": "me"}}, "/data/session/title_by"),
        ({"session": {"tags": [{}]}}, "/data/session/tags/0"),
        ({"messages": {}}, "/data/messages"),
        ({"messages": [1]}, "/data/messages/0"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "/data/messages/0/content/0"),
        (
            {"messages": [{"role": "assistant", "extra": {"tool_calls": 5}}]},
            "/data/messages/0/extra/tool_calls",
        ),
        ({"messages": [{"role": "user", "content": "x", "depth": 3}]}, "/data/messages"),
    ],
)
def test_what_cannot_be_taken_in_is_pointed_at(
    server: LiveServer, change: dict[str, Any], pointer: str
) -> None:
    data = {"tabagent_session": 1, "messages": []} | change
    response = server.client.post("/v1/sessions/import", json={"data": data})
    refused(response, 400, "invalid-request", pointer)


def test_one_of_data_and_text_is_taken(server: LiveServer) -> None:
    for given in ({}, {"data": {"tabagent_session": 1}, "text": "x"}):
        refused(server.client.post("/v1/sessions/import", json=given), 400, "invalid-request")
    plain = server.client.post("/v1/sessions/import", json={"text": "# Notes\n"})
    refused(plain, 400, "invalid-request", "/text")
